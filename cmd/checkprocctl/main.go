// Command checkprocctl asks and steers the process guard checkprocd.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/checkprocd/checkprocd/pkg/process"
)

// version is set by -ldflags "-X main.version=…"; else it is that of the build information.
var version string

func main() {
	process.HelperMain() // "check" without a daemon reads mappings through a helper process
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
