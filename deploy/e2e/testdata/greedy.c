/* The cpactive client with MIB MiB that it has written to and FILES more descriptors: greedy MIB FILES, and its options. */
#define main client_main
#include "client.c"
#undef main

int main(int argc, char **argv)
{
	size_t size;
	char *memory;
	int files;

	if (argc < 3)
		return 64;
	size = (size_t)number(argv[1]) << 20;
	memory = malloc(size + 1);
	if (memory == NULL)
		die("malloc");
	memset(memory, 1, size);
	__asm__ volatile("" : : "r"(memory) : "memory"); /* else the compiler sees that nobody reads it */
	for (files = (int)number(argv[2]); files > 0; files--)
		if (dup(0) < 0)
			die("dup");
	argv[2] = argv[0];
	return client_main(argc - 2, argv + 2);
}
