/*
 * A bad neighbour on a small host. It ends by itself, and is to be locked into a cgroup before.
 *
 *	neighbour cpu SECONDS		spins
 *	neighbour memory SECONDS FILE	touches all of a file that is larger than the memory of its cgroup, again and again
 *	neighbour forks SECONDS N	N processes of which each forks and ends at once, and so does its child;
 *					they end when the first process is killed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static time_t end;

static void die(const char *what)
{
	fprintf(stderr, "neighbour: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static void thrash(const char *path)
{
	int fd = open(path, O_RDONLY);
	volatile const char *p;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	while (now() < end)
		for (off_t at = 0; at < st.st_size && now() < end; at += 4096)
			(void)p[at];
}

/* chain is a process with ever another pid. The pipe's other end is that of the first process. */
static _Noreturn void chain(int pipe)
{
	struct timespec moment = { 0, 1000000 };
	struct pollfd first = { .fd = pipe };

	for (;;) {
		if (now() >= end || poll(&first, 1, 0) != 0)
			_exit(0);
		switch (fork()) {
		case -1: /* the cgroup is full */
			nanosleep(&moment, NULL);
			break;
		case 0:
			break;
		default:
			_exit(0);
		}
	}
}

int main(int argc, char **argv)
{
	int ends[2];

	if (argc < 3) {
		fprintf(stderr, "usage: neighbour cpu|memory|forks SECONDS [FILE|N]\n");
		return 64;
	}
	end = now() + atoi(argv[2]);
	if (pipe(ends) < 0)
		die("pipe");
	printf("ready %d 0\n", (int)getpid());
	fflush(stdout);
	if (strcmp(argv[1], "cpu") == 0)
		while (now() < end)
			;
	else if (strcmp(argv[1], "memory") == 0 && argc == 4)
		thrash(argv[3]);
	else if (strcmp(argv[1], "forks") == 0 && argc == 4)
		for (int i = 0; i < atoi(argv[3]); i++)
			if (fork() == 0) {
				close(ends[1]);
				chain(ends[0]);
			}
	while (wait(NULL) > 0)
		;
	if (strcmp(argv[1], "forks") == 0)
		for (;;)
			pause();
	return 0;
}
