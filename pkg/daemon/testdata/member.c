/*
 * A cpactive client that obeys a test, beside the one of pkg/table that has the accidents of real ones.
 *
 *	member NAME TIMEOUT BEAT_MS [TERM [IN]]	SIGUSR1: hang, SIGUSR2: beat again
 *	member --crowd N TIMEOUT		N children that sleep; the parent writes their records into slots 0 to N-1
 *
 * TERM is what SIGTERM does: exit (the default: wipe the record and end), tell ("term" on stdout, nothing else),
 * resume (beat again), group (send SIGTERM to the own process group, then exit).
 *
 * With IN it hangs in the kernel, and beats on when that lets it go: a path is a file that it writes to, vfork a child
 * that lives until it is told to end by SIGUSR2 of its own.
 *
 * On stdout: "ready PID SLOT".
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "cpactive.h"

static volatile struct record *table;
static int slot = -1;
static volatile sig_atomic_t hung;
static const char *term = "exit";
static const char *in;

static void die(const char *what)
{
	fprintf(stderr, "member: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static void attach(void)
{
	int id = shmget(TABLE_KEY, TABLE_RECORDS * sizeof(struct record), 0666 | IPC_CREAT);

	if (id < 0)
		die("shmget");
	table = shmat(id, NULL, 0);
	if (table == (void *)-1)
		die("shmat");
}

static void put(int i, int pid, const char *name, int timeout)
{
	struct record r;

	memset(&r, 0, sizeof r);
	r.pid = pid;
	memcpy(r.name, name, strnlen(name, sizeof r.name));
	r.timeout = timeout;
	r.atime = time(0);
	memcpy((void *)&table[i], &r, sizeof r);
}

static void ready(int i)
{
	printf("ready %d %d\n", (int)getpid(), i);
	fflush(stdout);
}

static _Noreturn void crowd(int n, int timeout)
{
	int i;

	attach();
	for (i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		put(i, pid, "crowd", timeout);
	}
	ready(0);
	for (;;)
		pause();
}

static void leave(void)
{
	memset((void *)&table[slot], 0, sizeof(struct record));
	_exit(0);
}

static void on_signal(int sig)
{
	switch (sig) {
	case SIGUSR1:
		hung = 1;
		return;
	case SIGUSR2:
		hung = 0;
		return;
	}
	if (strcmp(term, "tell") == 0) {
		if (write(1, "term\n", 5) != 5)
			_exit(1);
		return;
	}
	if (strcmp(term, "resume") == 0) {
		hung = 0;
		return;
	}
	if (strcmp(term, "group") == 0) {
		signal(SIGTERM, SIG_IGN);
		kill(0, SIGTERM);
	}
	leave();
}

/* stick sleeps in the kernel until a file is written or a child has ended. */
static void stick(void)
{
	sigset_t end;
	int fd, sig;

	if (strcmp(in, "vfork") != 0) {
		fd = open(in, O_WRONLY | O_CREAT, 0666);
		if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) < 0)
			die(in);
		return;
	}
	sigemptyset(&end);
	sigaddset(&end, SIGUSR2);
	sigprocmask(SIG_BLOCK, &end, NULL); /* the child inherits it */
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigwait(&end, &sig);
		_exit(0);
	}
	sigprocmask(SIG_UNBLOCK, &end, NULL);
}

static void lock(int sem, short by)
{
	struct sembuf op = { 0, by, SEM_UNDO };

	while (semop(sem, &op, 1) < 0)
		if (errno != EINTR)
			die("semop");
}

int main(int argc, char **argv)
{
	const int signals[] = { SIGTERM, SIGUSR1, SIGUSR2 };
	struct sigaction act = { .sa_handler = on_signal };
	struct timespec period;
	int sem, i;

	if (argc == 4 && strcmp(argv[1], "--crowd") == 0)
		crowd(atoi(argv[2]), atoi(argv[3]));
	if (argc < 4 || argc > 6) {
		fprintf(stderr, "usage: member NAME TIMEOUT BEAT_MS [TERM [IN]] | member --crowd N TIMEOUT\n");
		return 64;
	}
	if (argc >= 5)
		term = argv[4];
	if (argc == 6)
		in = argv[5];
	period.tv_sec = atoi(argv[3]) / 1000;
	period.tv_nsec = atoi(argv[3]) % 1000 * 1000000L;

	attach();
	sem = semget(TABLE_KEY, 1, 0666); /* the guard made it */
	if (sem < 0)
		die("semget");
	lock(sem, -1);
	for (i = 0; slot < 0 && i < TABLE_RECORDS; i++)
		if (table[i].pid == 0)
			slot = i;
	if (slot >= 0)
		put(slot, getpid(), argv[1], atoi(argv[2]));
	lock(sem, 1);
	if (slot < 0) {
		fprintf(stderr, "member: the table is full\n");
		return 1;
	}
	for (i = 0; i < 3; i++)
		sigaction(signals[i], &act, NULL);
	ready(slot);
	for (;;) {
		nanosleep(&period, NULL);
		if (hung && in) {
			stick();
			hung = 0;
		}
		if (!hung)
			table[slot].atime++; /* the value is opaque, and a second may hold many beats */
	}
}
