/*
 * A file system that can be made to stand still: a disk or a file server that does not answer, for one test alone.
 *
 *	stuckfs DIR	SIGUSR1: hold each write from now on, SIGUSR2: answer what is held and all that comes
 *
 * It mounts itself on DIR and says "ready"; for each write that it holds it says "held PID". Who writes then sleeps in
 * state D, and SIGKILL does not end it: the request is in user space, and only its answer, or the end of this program,
 * ends the wait. That is why a test may use it without a risk: with the last process of its pid namespace the wait is
 * over, while a frozen ext4 would keep the namespace alive for ever.
 *
 * Files are names and sizes; what is written to them is forgotten.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define FILES 64	     /* node 1 is the root, a file's is its index + 2 */
#define HELD 256
#define MAX_WRITE (128 << 10)
#define PROBE ".probe"

static struct {
	char name[64];
	struct fuse_attr attr;
} files[FILES];

static struct {
	__u64 unique;
	__u32 size;
} held[HELD];

static int fuse, holding, n_held;
static __u64 probe; /* the write that was made to be interrupted */

static void die(const char *what)
{
	fprintf(stderr, "stuckfs: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static void answer(__u64 unique, int error, const void *data, size_t size)
{
	static char buf[sizeof(struct fuse_out_header) + MAX_WRITE];
	struct fuse_out_header h = { .len = sizeof h + size, .error = -error, .unique = unique };

	memcpy(buf, &h, sizeof h);
	if (size > 0)
		memcpy(buf + sizeof h, data, size);
	if (write(fuse, buf, h.len) < 0 && errno != ENOENT) /* who asked may be gone */
		die("answer");
}

static void written(__u64 unique, __u32 size)
{
	struct fuse_write_out out = { .size = size };

	answer(unique, 0, &out, sizeof out);
}

static struct fuse_attr attr_of(__u64 node)
{
	struct fuse_attr root = { .ino = 1, .mode = S_IFDIR | 0777, .nlink = 2, .blksize = 4096 };

	return node == FUSE_ROOT_ID ? root : files[node - 2].attr;
}

static int find(const char *name)
{
	for (int i = 0; i < FILES; i++)
		if (strcmp(files[i].name, name) == 0)
			return i;
	return -1;
}

static struct fuse_entry_out entry(int i)
{
	struct fuse_entry_out e = { .nodeid = i + 2, .attr = files[i].attr };

	return e;
}

static void create(const struct fuse_in_header *in, const struct fuse_create_in *arg)
{
	const char *name = (const char *)(arg + 1);
	struct {
		struct fuse_entry_out e;
		struct fuse_open_out o;
	} out = { .o = { .open_flags = FOPEN_DIRECT_IO } };
	int i = find("");

	if (i < 0 || strlen(name) >= sizeof files[i].name) {
		answer(in->unique, ENOSPC, NULL, 0);
		return;
	}
	strcpy(files[i].name, name);
	files[i].attr = (struct fuse_attr){ .ino = i + 2, .mode = S_IFREG | (arg->mode & 07777), .nlink = 1,
					    .uid = in->uid, .gid = in->gid, .blksize = 4096 };
	out.e = entry(i);
	answer(in->unique, 0, &out, sizeof out);
}

static void take_write(const struct fuse_in_header *in, const struct fuse_write_in *arg)
{
	struct fuse_attr *a = &files[in->nodeid - 2].attr;

	if (arg->offset + arg->size > a->size)
		a->size = arg->offset + arg->size;
	if (strcmp(files[in->nodeid - 2].name, PROBE) == 0) {
		probe = in->unique;
		return;
	}
	if (!holding || n_held == HELD) {
		written(in->unique, arg->size);
		return;
	}
	held[n_held].unique = in->unique;
	held[n_held++].size = arg->size;
	printf("held %d\n", (int)in->pid);
	fflush(stdout);
}

static void serve(const struct fuse_in_header *in)
{
	const void *arg = in + 1;
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
				      .max_readahead = 4096, .flags = FUSE_BIG_WRITES, .max_write = MAX_WRITE,
				      .max_background = 16, .time_gran = 1 };
	struct fuse_attr_out attr = { 0 };
	struct fuse_open_out open = { .open_flags = in->opcode == FUSE_OPEN ? FOPEN_DIRECT_IO : 0 };
	struct fuse_statfs_out statfs = { .st = { .blocks = 1 << 20, .bfree = 1 << 20, .bavail = 1 << 20, .bsize = 4096, .namelen = 63 } };
	struct fuse_entry_out e;
	int i;

	switch (in->opcode) {
	case FUSE_INIT:
		answer(in->unique, 0, &init, sizeof init);
		return;
	case FUSE_LOOKUP:
		i = find(arg);
		if (i < 0) {
			answer(in->unique, ENOENT, NULL, 0);
			return;
		}
		e = entry(i);
		answer(in->unique, 0, &e, sizeof e);
		return;
	case FUSE_CREATE:
		create(in, arg);
		return;
	case FUSE_SETATTR:
		if (in->nodeid != FUSE_ROOT_ID && ((const struct fuse_setattr_in *)arg)->valid & FATTR_SIZE)
			files[in->nodeid - 2].attr.size = ((const struct fuse_setattr_in *)arg)->size;
		/* fallthrough */
	case FUSE_GETATTR:
		attr.attr = attr_of(in->nodeid);
		answer(in->unique, 0, &attr, sizeof attr);
		return;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		answer(in->unique, 0, &open, sizeof open);
		return;
	case FUSE_WRITE:
		take_write(in, arg);
		return;
	case FUSE_READ:
	case FUSE_READDIR:
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNC:
	case FUSE_ACCESS:
		answer(in->unique, 0, NULL, 0);
		return;
	case FUSE_STATFS:
		answer(in->unique, 0, &statfs, sizeof statfs);
		return;
	case FUSE_UNLINK:
		i = find(arg);
		if (i >= 0)
			files[i].name[0] = 0;
		answer(in->unique, i < 0 ? ENOENT : 0, NULL, 0);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
		return;
	case FUSE_INTERRUPT:
		/* From this answer on the kernel asks no more, and a wait for an answer is state D, not S. */
		answer(in->unique, ENOSYS, NULL, 0);
		if (probe != 0)
			written(probe, 1);
		probe = 0;
		return;
	default:
		answer(in->unique, ENOSYS, NULL, 0);
	}
}

static void release(void)
{
	holding = 0;
	while (n_held > 0) {
		n_held--;
		written(held[n_held].unique, held[n_held].size);
	}
}

static void nothing(int sig)
{
	(void)sig;
}

/* interrupted writes, is interrupted by a signal, and ends. */
static _Noreturn void interrupted(const char *dir)
{
	struct sigaction act = { .sa_handler = nothing };
	struct itimerval soon = { .it_value.tv_usec = 20000, .it_interval.tv_usec = 20000 };
	char path[4096];
	int fd;

	close(fuse);
	snprintf(path, sizeof path, "%s/%s", dir, PROBE);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	if (fd < 0)
		die("open the probe");
	sigaction(SIGALRM, &act, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	if (write(fd, "x", 1) != 1)
		die("write to the probe");
	_exit(0);
}

int main(int argc, char **argv)
{
	static char buf[MAX_WRITE + 4096];
	const int signals[] = { SIGUSR1, SIGUSR2, SIGCHLD };
	struct signalfd_siginfo sig;
	struct pollfd polled[2];
	char options[128];
	sigset_t set;
	ssize_t n;

	if (argc != 2) {
		fprintf(stderr, "usage: stuckfs DIR\n");
		return 64;
	}
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0)
		die("open /dev/fuse");
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
	if (mount("stuckfs", argv[1], "fuse", MS_NOSUID | MS_NODEV, options) < 0)
		die("mount");
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
		sigaddset(&set, signals[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (fork() == 0)
		interrupted(argv[1]);
	polled[0] = (struct pollfd){ .fd = fuse, .events = POLLIN };
	polled[1] = (struct pollfd){ .fd = signalfd(-1, &set, SFD_CLOEXEC), .events = POLLIN };
	for (;;) {
		if (poll(polled, 2, -1) < 0)
			die("poll");
		if (polled[1].revents && read(polled[1].fd, &sig, sizeof sig) == sizeof sig)
			switch (sig.ssi_signo) {
			case SIGUSR1:
				holding = 1;
				printf("holding\n");
				fflush(stdout);
				break;
			case SIGUSR2:
				release();
				break;
			case SIGCHLD:
				printf(sig.ssi_status == 0 ? "ready\n" : "failed\n");
				fflush(stdout);
			}
		if (!polled[0].revents)
			continue;
		n = read(fuse, buf, sizeof buf);
		if (n < 0 && errno == ENODEV) /* unmounted */
			return 0;
		if (n < 0 && errno != EINTR && errno != EAGAIN && errno != ENOENT)
			die("read a request");
		if (n > 0)
			serve((const struct fuse_in_header *)buf);
	}
}
