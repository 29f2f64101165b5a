// Holds 64 MB and waits.
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
	size_t i, size = 64 << 20;
	volatile char *p = malloc(size);

	if (p == NULL)
		return 1;
	for (i = 0; i < size; i += 4096)
		p[i] = 1;
	for (;;)
		pause();
}
