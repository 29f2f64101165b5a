/*
 * The cpactive client with what a look at it can find: two more threads, one that waits for a lock which nobody gives
 * back and one that sleeps; 16 MiB that it has written to; a socket and an open file. Its arguments are the client's.
 */
#define main client_main
#include "client.c"
#undef main

#include <fcntl.h>
#include <semaphore.h>
#include <sys/socket.h>

enum { MEMORY = 16 << 20 };

static sem_t never;

static void *wait_for_ever(void *unused)
{
	for (;;)
		sem_wait(&never);
	return unused;
}

static void *sleep_for_ever(void *unused)
{
	for (;;)
		sleep_ms(1000000000);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char *memory = malloc(MEMORY);

	if (memory == NULL || socket(AF_UNIX, SOCK_STREAM, 0) < 0 || open("/etc/hostname", O_RDONLY) < 0)
		die("open");
	memset(memory, 1, MEMORY);
	sem_init(&never, 0, 0);
	errno = pthread_create(&thread, NULL, wait_for_ever, NULL);
	if (errno == 0)
		errno = pthread_create(&thread, NULL, sleep_for_ever, NULL);
	if (errno != 0)
		die("pthread_create");
	return client_main(argc, argv);
}
