package guard

import (
	_ "os"
	_ "time"

	_ "github.com/checkprocd/checkprocd/pkg/process"
	_ "github.com/checkprocd/checkprocd/pkg/table"
	_ "golang.org/x/sys/unix"
)
