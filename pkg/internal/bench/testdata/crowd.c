/*
 * A crowd of clients for measurements: one parent that forks them at once, which takes 0.1 s for 1000.
 *
 *	crowd N TIMEOUT BEAT STOP
 *
 * N clients with TIMEOUT seconds in the slots 0 to N-1; each beats every BEAT ms on a schedule of its own, and the
 * beats of all are spread evenly. With STOP > 0 they stop beating one after the other within STOP ms, and hang; with
 * BEAT 0 they never beat. SIGTERM is noted and ignored. All die with their parent.
 *
 * Descriptor 3 is a file of N notes, in which everybody writes down when things happened: CLOCK_MONOTONIC in ns, 0 for
 * not yet. "ready\n" on stdout when all are registered; the parent then reaps until the last has ended.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cpactive.h"

struct note {
	int64_t pid;
	int64_t beat; /* latest beat */
	int64_t term; /* first SIGTERM */
	int64_t exit; /* reaped by the parent */
};

static volatile struct note *notes;
static volatile struct note *own;
static volatile struct record *table;

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void on_term(int sig)
{
	(void)sig;
	if (own->term == 0)
		own->term = now();
}

static void beat(int slot)
{
	int64_t t = now();

	table[slot].atime = t; /* a token: opaque to the guard */
	own->beat = t;
}

static void live(int slot, int n, int timeout, int64_t period, int64_t stop)
{
	/* 7919 is a prime: neighbours in the table neither beat nor stop after each other. */
	int64_t turn = (int64_t)slot * 7919 % n, at, last;
	struct record r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		die("prctl");
	own = &notes[slot];
	signal(SIGTERM, on_term);
	memset(&r, 0, sizeof r);
	r.pid = (int)getpid();
	snprintf(r.name, sizeof r.name, "client-%d", slot);
	r.timeout = timeout;
	r.atime = now();
	memcpy((void *)&table[slot], &r, sizeof r);
	own->beat = r.atime;
	own->pid = r.pid;

	at = now();
	last = at + stop * turn / n;
	for (at += period * turn / n; period > 0 && (stop == 0 || at <= last); at += period) {
		struct timespec ts = { at / 1000000000, at % 1000000000 };

		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) != 0)
			;
		beat(slot);
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int n, timeout, shm, i, left;
	int64_t period, stop;

	if (argc != 5) {
		fprintf(stderr, "usage: crowd N TIMEOUT BEAT STOP\n");
		return 64;
	}
	n = atoi(argv[1]);
	timeout = atoi(argv[2]);
	period = atoll(argv[3]) * 1000000;
	stop = atoll(argv[4]) * 1000000;
	notes = mmap(NULL, (size_t)n * sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
	if (notes == MAP_FAILED)
		die("mmap");
	shm = shmget(TABLE_KEY, TABLE_RECORDS * sizeof(struct record), 0666 | IPC_CREAT);
	if (shm < 0)
		die("shmget");
	table = shmat(shm, NULL, 0);
	if (table == (void *)-1)
		die("shmat");
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0)
			live(i, n, timeout, period, stop);
	}
	for (i = 0; i < n; i++)
		while (notes[i].pid == 0)
			usleep(100);
	if (write(1, "ready\n", 6) != 6)
		die("write");
	for (left = n; left > 0; left--) {
		pid_t pid = wait(NULL);
		int64_t t = now();

		for (i = 0; i < n && notes[i].pid != pid; i++)
			;
		if (i < n)
			notes[i].exit = t;
	}
	return 0;
}
