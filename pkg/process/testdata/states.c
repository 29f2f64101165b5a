// A process with a thread for each argument, named after it:
//
//	futex sleep pipe spin vfork churn   one that waits there, runs for ever, or makes threads that end at once
//	idle=N                              N that wait in pause
//	fds=N                               no thread, but N descriptors more
//	name=X                              no thread, but X is the name of the process
//
// It prints a line when all are begun, and ends with its standard input.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static pthread_mutex_t taken = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t begun;
static pid_t own;

static void *nothing(void *arg)
{
	return arg;
}

static void *play(void *arg)
{
	const char *part = arg;
	static volatile unsigned long turns;
	pthread_attr_t attr;
	pthread_t t;
	int p[2];
	char c;

	prctl(PR_SET_NAME, part);
	pthread_barrier_wait(&begun);
	if (strcmp(part, "futex") == 0) {
		pthread_mutex_lock(&taken);
	} else if (strcmp(part, "sleep") == 0) {
		sleep(100000);
	} else if (strcmp(part, "pipe") == 0) {
		if (pipe(p) == 0)
			(void)!read(p[0], &c, 1);
	} else if (strcmp(part, "spin") == 0) {
		for (;;)
			turns++;
	} else if (strcmp(part, "vfork") == 0) {
		if (vfork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() == own)
				pause();
			_exit(0);
		}
	} else if (strcmp(part, "churn") == 0) {
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		for (;;)
			pthread_create(&t, &attr, nothing, NULL);
	}
	for (;;)
		pause();
}

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	pthread_attr_t small;
	pthread_t t;
	int i, n, parts = 0;
	char c;

	own = getpid();
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	pthread_mutex_lock(&taken);
	for (i = 1; i < argc; i++)
		parts += strchr(argv[i], '=') == NULL;
	pthread_barrier_init(&begun, NULL, parts + 1);
	for (i = 1; i < argc; i++) {
		if (sscanf(argv[i], "idle=%d", &n) == 1) {
			while (n-- > 0)
				if (pthread_create(&t, &small, idle, NULL) != 0)
					return 1;
		} else if (sscanf(argv[i], "fds=%d", &n) == 1) {
			while (n-- > 0)
				if (dup(2) < 0)
					return 1;
		} else if (strncmp(argv[i], "name=", 5) == 0) {
			prctl(PR_SET_NAME, argv[i] + 5);
		} else if (pthread_create(&t, NULL, play, argv[i]) != 0) {
			return 1;
		}
	}
	pthread_barrier_wait(&begun);
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
