/*
 * A cpactive client for tests, with the habits and the accidents of real ones.
 *
 * It registers as the libraries do: attach, look for the own pid, take the semaphore with SEM_UNDO, take the first
 * record with pid 0, copy 72 bytes, give the semaphore back. A beat is one aligned 8-byte store at the remembered slot.
 * A destructor zeroes the record and detaches; it runs on return and exit(), not on a signal.
 *
 * On stdout: "ready PID SLOT" when registered, "full PID" when the table has no room (it runs on unguarded, as real
 * clients do), "holding PID" for --hold-sem. What goes wrong otherwise is said on stderr, exit status 1; 64 for usage.
 *
 * The life after registering: beat every --beat ms, --beats times or for ever, then hang: alive, and silent. With
 * --leak it takes more with each beat, --leak-by of it, and keeps it, up to --leak-to: KiB of memory, descriptors,
 * threads, children; of cpu it takes --leak-by ms.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "cpactive.h"

static struct {
	const char *name;
	int timeout;
	long beat_ms;
	long beats; /* -1: no limit */
	enum { TERM_INHERIT, TERM_DEFAULT, TERM_IGNORE, TERM_EXIT, TERM_WIPE_HANG } term;
	enum { TOKEN_NORMAL, TOKEN_AHEAD, TOKEN_BEHIND, TOKEN_STEP } token;
	int children;
	long child_life_ms;
	int leader_exit;
	int zombie_child;
	int hold_sem;
	int sem_uninit;
	const char *new_name;
	int new_timeout; /* -1: none */
	long change_after;
	int garbage;
	long torn_ms; /* -1: not torn */
	int write_late;
	int forge; /* pid to write instead of the own, 0: none */
	int group;
	int session;
	int spin;
	enum { LEAK_NOTHING, LEAK_MEMORY, LEAK_DESCRIPTORS, LEAK_THREADS, LEAK_CHILDREN, LEAK_CPU } leak;
	long leak_by, leak_to;
	const char *program;
} opt = { .name = "client", .timeout = 10, .beats = -1, .new_timeout = -1, .change_after = 2, .torn_ms = -1 };

static volatile struct record *table;
static int slot = -1;

static void die(const char *what)
{
	fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static void say(const char *word, int number)
{
	char line[64];
	int len = number < 0 ? snprintf(line, sizeof line, "%s %d\n", word, (int)getpid())
			     : snprintf(line, sizeof line, "%s %d %d\n", word, (int)getpid(), number);

	if (write(1, line, (size_t)len) != len)
		die("write to stdout");
}

static void sleep_ms(long ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
}

static void hang(void)
{
	for (;;)
		if (!opt.spin)
			pause();
}

static time_t next_token(void)
{
	static int odd;

	odd = !odd;
	switch (opt.token) {
	case TOKEN_AHEAD:
		return time(0) + 1000000;
	case TOKEN_BEHIND:
		return time(0) - 1000000;
	case TOKEN_STEP:
		return time(0) + (odd ? 3600 : -3600);
	default:
		return time(0);
	}
}

/* One store: no lock, and no look at whose record it is by now. */
static void beat(void)
{
	if (slot >= 0)
		table[slot].atime = next_token();
}

static void wipe(void)
{
	if (slot >= 0)
		memset((void *)&table[slot], 0, sizeof(struct record));
}

__attribute__((destructor)) static void unregister(void)
{
	if (table == NULL)
		return;
	wipe();
	shmdt((const void *)table);
	table = NULL;
}

static void on_term_exit(int sig)
{
	(void)sig;
	exit(0);
}

static void on_term_wipe_hang(int sig)
{
	(void)sig;
	wipe();
	for (;;)
		pause();
}

static void set_term(void)
{
	switch (opt.term) {
	case TERM_INHERIT:
		return;
	case TERM_DEFAULT:
		signal(SIGTERM, SIG_DFL);
		return;
	case TERM_IGNORE:
		signal(SIGTERM, SIG_IGN);
		return;
	case TERM_EXIT:
		signal(SIGTERM, on_term_exit);
		return;
	case TERM_WIPE_HANG:
		signal(SIGTERM, on_term_wipe_hang);
		return;
	}
}

static int sem_open_or_create(void)
{
	int id = semget(TABLE_KEY, 1, 0666);

	if (id >= 0)
		return id;
	if (errno != ENOENT)
		die("semget");
	id = semget(TABLE_KEY, 1, 0666 | IPC_CREAT | IPC_EXCL);
	if (id < 0) {
		if (errno != EEXIST)
			die("semget");
		id = semget(TABLE_KEY, 1, 0666);
		if (id < 0)
			die("semget");
		return id;
	}
	if (opt.sem_uninit) /* the creator's death between semget and SETVAL */
		_exit(0);
	if (semctl(id, 0, SETVAL, 1) < 0)
		die("semctl SETVAL");
	return id;
}

static void sem_change(int id, short by)
{
	struct sembuf op = { 0, by, SEM_UNDO };

	while (semop(id, &op, 1) < 0)
		if (errno != EINTR)
			die("semop");
}

static void put(const struct record *r)
{
	if (opt.torn_ms >= 0) { /* the pid long before the rest */
		table[slot].pid = r->pid;
		sleep_ms(opt.torn_ms);
	}
	memcpy((void *)&table[slot], r, sizeof *r);
}

static void register_self(void)
{
	struct record r;
	int sem, i;
	int shm = shmget(TABLE_KEY, TABLE_RECORDS * sizeof(struct record), 0666 | IPC_CREAT);

	if (shm < 0)
		die("shmget");
	table = shmat(shm, NULL, 0);
	if (table == (void *)-1) {
		table = NULL;
		die("shmat");
	}

	memset(&r, opt.garbage ? 0xa5 : 0, sizeof r);
	r.pid = opt.forge ? opt.forge : (int)getpid();
	if (strlen(opt.name) < sizeof r.name)
		strcpy(r.name, opt.name);
	else
		memcpy(r.name, opt.name, sizeof r.name);
	r.timeout = opt.timeout;
	r.atime = next_token();

	for (i = 0; i < TABLE_RECORDS; i++) { /* without the lock */
		if (table[i].pid == r.pid) {
			slot = i;
			break;
		}
	}
	sem = sem_open_or_create();
	sem_change(sem, -1);
	if (opt.hold_sem) {
		say("holding", -1);
		raise(SIGSTOP);
	}
	for (i = 0; slot < 0 && i < TABLE_RECORDS; i++)
		if (table[i].pid == 0)
			slot = i;
	if (slot < 0) {
		sem_change(sem, 1);
		say("full", -1);
		return;
	}
	if (opt.write_late) { /* one variant gives the semaphore back first */
		sem_change(sem, 1);
		put(&r);
	} else {
		put(&r);
		sem_change(sem, 1);
	}
}

static void change(void)
{
	if (opt.new_name != NULL) {
		memset((void *)table[slot].name, 0, sizeof table[slot].name);
		memcpy((void *)table[slot].name, opt.new_name, strnlen(opt.new_name, sizeof table[slot].name));
	}
	if (opt.new_timeout >= 0)
		table[slot].timeout = opt.new_timeout;
}

static void *rest(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void leak_one(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	char *page;
	pid_t pid;

	switch (opt.leak) {
	case LEAK_MEMORY:
		page = malloc(1024);
		if (page == NULL)
			die("malloc");
		memset(page, 1, 1024);
		break;
	case LEAK_DESCRIPTORS:
		if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
			die("open");
		break;
	case LEAK_THREADS:
		pthread_attr_init(&attr);
		pthread_attr_setstacksize(&attr, 1 << 16);
		errno = pthread_create(&thread, &attr, rest, NULL);
		if (errno != 0)
			die("pthread_create");
		break;
	case LEAK_CHILDREN:
		pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			rest(NULL);
		}
		break;
	default:
		break;
	}
}

/* More of what --leak says, once for each beat. */
static void leak(void)
{
	static long taken;
	struct timespec used;
	long n, end = 0;

	if (opt.leak == LEAK_CPU)
		do {
			clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
			n = used.tv_sec * 1000 + used.tv_nsec / 1000000;
			if (end == 0)
				end = n + opt.leak_by;
		} while (n < end);
	else
		for (n = 0; n < opt.leak_by && taken < opt.leak_to; n++, taken++)
			leak_one();
}

/* Beats on a fixed schedule: a late wake-up does not shift the next one. */
static void beat_and_hang(void)
{
	struct timespec at;
	long n;

	if (opt.beat_ms <= 0)
		hang();
	clock_gettime(CLOCK_MONOTONIC, &at);
	for (n = 0; opt.beats < 0 || n < opt.beats; n++) {
		at.tv_sec += opt.beat_ms / 1000;
		at.tv_nsec += opt.beat_ms % 1000 * 1000000;
		if (at.tv_nsec >= 1000000000) {
			at.tv_sec++;
			at.tv_nsec -= 1000000000;
		}
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
			;
		beat();
		if (opt.leak != LEAK_NOTHING)
			leak();
		if (n + 1 == opt.change_after && slot >= 0)
			change();
	}
	hang();
}

static void *beat_thread(void *unused)
{
	(void)unused;
	beat_and_hang();
	return NULL;
}

/* The parent registered; all beat its record, and the first child's exit() wipes it. */
static void fork_children(void)
{
	int i;

	for (i = 0; i < opt.children; i++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid > 0)
			continue;
		if (i == 0) {
			beat();
			sleep_ms(opt.child_life_ms);
			exit(0);
		}
		beat_and_hang();
	}
}

/* A child that registers, beats --beats times and dies without its destructor; its parent never waits for it. */
static void zombie_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid > 0)
		hang();
	register_self();
	if (slot >= 0)
		say("ready", slot);
	for (; opt.beat_ms > 0 && opt.beats > 0; opt.beats--) {
		sleep_ms(opt.beat_ms);
		beat();
	}
	_exit(0);
}

enum {
	O_NAME = 256, O_TIMEOUT, O_BEAT, O_BEATS, O_BEAT_EXACT, O_DEFAULT_TERM, O_IGNORE_TERM, O_TERM_EXIT,
	O_TERM_WIPE_HANG, O_FORK, O_CHILD_LIFE, O_LEADER_EXIT, O_ZOMBIE, O_HOLD_SEM, O_SEM_UNINIT, O_NEW_NAME,
	O_NEW_TIMEOUT, O_CHANGE_AFTER, O_TOKEN, O_GARBAGE, O_TORN, O_WRITE_LATE, O_FORGE, O_GROUP, O_SETSID, O_SPIN, O_EXEC,
	O_LEAK, O_LEAK_BY, O_LEAK_TO
};

static const struct option options[] = {
	{ "name", required_argument, NULL, O_NAME },
	{ "timeout", required_argument, NULL, O_TIMEOUT },	   /* seconds */
	{ "beat", required_argument, NULL, O_BEAT },		   /* period in ms; 0, the default: never */
	{ "beats", required_argument, NULL, O_BEATS },		   /* so many, then hang */
	{ "beat-exact", no_argument, NULL, O_BEAT_EXACT },	   /* every timeout seconds */
	{ "default-term", no_argument, NULL, O_DEFAULT_TERM },	   /* else SIGTERM is as inherited */
	{ "ignore-term", no_argument, NULL, O_IGNORE_TERM },
	{ "term-exit", no_argument, NULL, O_TERM_EXIT },
	{ "term-wipe-hang", no_argument, NULL, O_TERM_WIPE_HANG }, /* makes the old guard do kill(0, 9) */
	{ "fork-after-register", required_argument, NULL, O_FORK },
	{ "child-life", required_argument, NULL, O_CHILD_LIFE },   /* ms until the first child exits */
	{ "leader-exit", no_argument, NULL, O_LEADER_EXIT },	   /* the main thread ends, another beats */
	{ "zombie-child", no_argument, NULL, O_ZOMBIE },
	{ "hold-sem", no_argument, NULL, O_HOLD_SEM },		   /* SIGSTOP between P and V */
	{ "sem-uninit", no_argument, NULL, O_SEM_UNINIT },	   /* die between semget and SETVAL */
	{ "name-change", required_argument, NULL, O_NEW_NAME },
	{ "timeout-change", required_argument, NULL, O_NEW_TIMEOUT },
	{ "change-after", required_argument, NULL, O_CHANGE_AFTER }, /* beats; 2 */
	{ "token", required_argument, NULL, O_TOKEN },		   /* ahead, behind, step, normal */
	{ "garbage-padding", no_argument, NULL, O_GARBAGE },	   /* and behind the name's NUL */
	{ "torn", required_argument, NULL, O_TORN },		   /* ms between the pid and the rest */
	{ "write-after-v", no_argument, NULL, O_WRITE_LATE },
	{ "forge", required_argument, NULL, O_FORGE },		   /* register this pid */
	{ "group", no_argument, NULL, O_GROUP },		   /* own process group */
	{ "setsid", no_argument, NULL, O_SETSID },
	{ "spin", no_argument, NULL, O_SPIN },			   /* hang in a busy loop */
	{ "leak", required_argument, NULL, O_LEAK },		   /* memory, descriptors, threads, children, cpu */
	{ "leak-by", required_argument, NULL, O_LEAK_BY },
	{ "leak-to", required_argument, NULL, O_LEAK_TO },
	{ "exec", required_argument, NULL, O_EXEC },		   /* PROGRAM, with the arguments behind the options */
	{ NULL, 0, NULL, 0 },
};

static int token_mode(const char *word)
{
	static const char *const words[] = { "normal", "ahead", "behind", "step" };
	unsigned i;

	for (i = 0; i < sizeof words / sizeof *words; i++)
		if (strcmp(word, words[i]) == 0)
			return (int)i;
	fprintf(stderr, "client: --token %s: not normal, ahead, behind or step\n", word);
	exit(64);
}

static int leak_kind(const char *word)
{
	static const char *const words[] = { "", "memory", "descriptors", "threads", "children", "cpu" };
	unsigned i;

	for (i = 1; i < sizeof words / sizeof *words; i++)
		if (strcmp(word, words[i]) == 0)
			return (int)i;
	fprintf(stderr, "client: --leak %s: not memory, descriptors, threads, children or cpu\n", word);
	exit(64);
}

static long number(const char *text)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0') {
		fprintf(stderr, "client: %s: not a number\n", text);
		exit(64);
	}
	return n;
}

static void parse(int argc, char **argv)
{
	int exact = 0, c;

	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (c) {
		case O_NAME: opt.name = optarg; break;
		case O_TIMEOUT: opt.timeout = (int)number(optarg); break;
		case O_BEAT: opt.beat_ms = number(optarg); break;
		case O_BEATS: opt.beats = number(optarg); break;
		case O_BEAT_EXACT: exact = 1; break;
		case O_DEFAULT_TERM: opt.term = TERM_DEFAULT; break;
		case O_IGNORE_TERM: opt.term = TERM_IGNORE; break;
		case O_TERM_EXIT: opt.term = TERM_EXIT; break;
		case O_TERM_WIPE_HANG: opt.term = TERM_WIPE_HANG; break;
		case O_FORK: opt.children = (int)number(optarg); break;
		case O_CHILD_LIFE: opt.child_life_ms = number(optarg); break;
		case O_LEADER_EXIT: opt.leader_exit = 1; break;
		case O_ZOMBIE: opt.zombie_child = 1; break;
		case O_HOLD_SEM: opt.hold_sem = 1; break;
		case O_SEM_UNINIT: opt.sem_uninit = 1; break;
		case O_NEW_NAME: opt.new_name = optarg; break;
		case O_NEW_TIMEOUT: opt.new_timeout = (int)number(optarg); break;
		case O_CHANGE_AFTER: opt.change_after = number(optarg); break;
		case O_TOKEN: opt.token = token_mode(optarg); break;
		case O_GARBAGE: opt.garbage = 1; break;
		case O_TORN: opt.torn_ms = number(optarg); break;
		case O_WRITE_LATE: opt.write_late = 1; break;
		case O_FORGE: opt.forge = (int)number(optarg); break;
		case O_GROUP: opt.group = 1; break;
		case O_SETSID: opt.session = 1; break;
		case O_SPIN: opt.spin = 1; break;
		case O_LEAK: opt.leak = leak_kind(optarg); break;
		case O_LEAK_BY: opt.leak_by = number(optarg); break;
		case O_LEAK_TO: opt.leak_to = number(optarg); break;
		case O_EXEC: opt.program = optarg; break;
		default: exit(64);
		}
	}
	if (optind < argc && opt.program == NULL) {
		fprintf(stderr, "client: %s: no argument expected\n", argv[optind]);
		exit(64);
	}
	if (exact)
		opt.beat_ms = 1000L * opt.timeout;
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	set_term();
	if (opt.session && setsid() < 0)
		die("setsid");
	if (opt.group && setpgid(0, 0) != 0)
		die("setpgid");
	if (opt.zombie_child)
		zombie_child();

	register_self();
	if (slot >= 0)
		say("ready", slot);

	if (opt.program != NULL) {
		argv[optind - 1] = (char *)opt.program;
		execvp(opt.program, argv + optind - 1);
		die(opt.program);
	}
	fork_children();
	if (opt.leader_exit) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, beat_thread, NULL);
		if (errno != 0)
			die("pthread_create");
		pthread_exit(NULL);
	}
	beat_and_hang();
	return 0;
}
