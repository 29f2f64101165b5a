/*
 * The guard that checkprocd replaces, faults included, to be measured and compared in tests. DANGEROUS: it signals
 * whatever pid stands in the table, it reads that pid again after SIGTERM, and a client that wipes its record and then
 * hangs makes it do kill(0, 9). So it runs only with CHECKPROCD_TEST_NAMESPACE=1 in the environment, to be set inside
 * fresh IPC and PID namespaces and nowhere else.
 *
 *	oldguard LOGFILE                one pass
 *	oldguard --pass-only [PASSES]   so many passes (1) over the table that act on nothing: neither signal nor clear.
 *	                                Prints wall and CPU nanoseconds of all of them, and what one pass saw:
 *	                                "passes N wall NS cpu NS records N gone N overdue N"
 *
 * Exit status 64 for usage, 77 without the variable, 1 when there is no table.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "cpactive.h"

static FILE *out;
static struct record *table;

static void line(int pid, const char *name, const char *what)
{
	char when[32];
	time_t now = time(0);
	struct tm tm;

	localtime_r(&now, &tm);
	strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
	fprintf(out, "%s pid=%d name=%.51s %s\n", when, pid, name, what);
	fflush(out);
}

static void pass(void)
{
	int i, j, alive;

	for (i = 0; i < TABLE_RECORDS; i++) {
		if (table[i].pid == 0)
			continue;
		if (kill(table[i].pid, 0) == -1) { /* EPERM as well */
			line(table[i].pid, table[i].name, "is gone, record cleared");
			memset(&table[i], 0, sizeof table[i]);
			continue;
		}
		if (time(0) - table[i].atime < table[i].timeout)
			continue;
		line(table[i].pid, table[i].name, "timed out");
		kill(table[i].pid, SIGTERM);
		alive = 0;
		for (j = 0; j < 5; j++) {
			sleep(1);
			alive = kill(table[i].pid, 0); /* 0 by now after a clean exit: the own group, which is alive */
			if (alive == -1)
				break;
		}
		if (alive == -1) {
			line(table[i].pid, table[i].name, "ended normally");
		} else {
			kill(table[i].pid, SIGKILL);
			line(table[i].pid, table[i].name, "ended by force");
		}
		memset(&table[i], 0, sizeof table[i]);
	}
}

struct seen {
	int records, gone, overdue;
};

static struct seen look(void)
{
	struct seen seen = { 0, 0, 0 };
	int i;

	for (i = 0; i < TABLE_RECORDS; i++) {
		if (table[i].pid == 0)
			continue;
		seen.records++;
		if (kill(table[i].pid, 0) == -1)
			seen.gone++;
		else if (time(0) - table[i].atime >= table[i].timeout)
			seen.overdue++;
	}
	return seen;
}

static long long now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void attach(int flags)
{
	int id = shmget(TABLE_KEY, TABLE_RECORDS * sizeof(struct record), 0666 | flags);

	if (id < 0) {
		perror("oldguard: shmget");
		exit(1);
	}
	table = shmat(id, NULL, 0);
	if (table == (void *)-1) {
		perror("oldguard: shmat");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	const char *allowed = getenv("CHECKPROCD_TEST_NAMESPACE");

	if (allowed == NULL || strcmp(allowed, "1") != 0) {
		fprintf(stderr, "oldguard: runs in test namespaces only, CHECKPROCD_TEST_NAMESPACE=1 is not set\n");
		return 77;
	}
	if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--pass-only") == 0) {
		long passes = argc == 3 ? atol(argv[2]) : 1, i;
		struct seen seen = { 0, 0, 0 };
		long long wall, cpu;

		attach(0);
		wall = now_ns(CLOCK_MONOTONIC);
		cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
		for (i = 0; i < passes; i++)
			seen = look();
		cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		wall = now_ns(CLOCK_MONOTONIC) - wall;
		printf("passes %ld wall %lld cpu %lld records %d gone %d overdue %d\n", passes, wall, cpu, seen.records,
		       seen.gone, seen.overdue);
		return 0;
	}
	if (argc != 2 || argv[1][0] == '-') {
		fprintf(stderr, "usage: oldguard LOGFILE | oldguard --pass-only [PASSES]\n");
		return 64;
	}
	out = fopen(argv[1], "a");
	if (out == NULL) {
		perror(argv[1]);
		return 1;
	}
	attach(IPC_CREAT);
	pass();
	shmdt(table);
	return 0;
}
