package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/checkprocd/checkprocd/pkg/process"
)

// spareFiles are descriptors that targets do not get, or half of all where there
// are few: files of /proc, the log, the registry, the control socket's
// connections and the consent helper need some. Were every one a pidfd, the
// helper could not be started, and then nobody at all is guarded.
const spareFiles = 64

// room is for how many targets there are descriptors.
func room() (targets, limit int) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<30 {
		return 1 << 30, 1 << 30
	}
	return roomIn(int(l.Cur)), int(l.Cur)
}

func roomIn(limit int) (targets int) {
	targets = limit - min(spareFiles, limit/2)
	if keepsFiles(limit) {
		targets -= process.MaxKept
	}
	return targets
}

// keepsFiles says whether there are so many descriptors that the sampler may keep some: targets come first.
func keepsFiles(limit int) bool { return limit >= 8*process.MaxKept }

// noRoom says why no more targets are taken in; "" while they are.
func (d *Daemon) noRoom() string {
	targets, limit := room()
	if len(d.held) < targets {
		return ""
	}
	return fmt.Sprintf("too many open files: of %d descriptors, %d are for targets (raise LimitNOFILE=)", limit, targets)
}
