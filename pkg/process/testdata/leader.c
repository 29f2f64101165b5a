// A process whose leader ends while another thread lives on. With an argument it attaches that SysV segment first.
// It prints a line when all is set up, and ends with its standard input.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/shm.h>
#include <unistd.h>

static void *rest(void *leader)
{
	char c;
	pthread_join(*(pthread_t *)leader, NULL);
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	exit(0);
}

int main(int argc, char **argv)
{
	static pthread_t leader;
	pthread_t other;

	leader = pthread_self();
	if (argc > 1 && shmat(atoi(argv[1]), NULL, 0) == (void *)-1) {
		perror("shmat");
		return 1;
	}
	if (pthread_create(&other, NULL, rest, &leader) != 0)
		return 1;
	pthread_exit(NULL);
}
