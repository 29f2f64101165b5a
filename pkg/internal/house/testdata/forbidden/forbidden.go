// Package forbidden breaks every rule of .ci/house, so that the rules are seen to work.
package forbidden

import (
	"log"
	"os"
	"syscall"
	"time"

	kernel "golang.org/x/sys/unix"
)

func byNumber() {
	_ = kernel.Kill(1, 0)
	_ = kernel.Tgkill(1, 1, 0)
	_ = kernel.PidfdSendSignal(0, 0, nil, 0)
	_ = syscall.Kill(1, 0)
	_, _, _ = kernel.Syscall(kernel.SYS_TKILL, 1, 0, 0)
	_, _ = os.FindProcess(1)
}

func impure() {
	time.Sleep(time.Until(time.Now()))
	log.Print(os.Getpid())
}
