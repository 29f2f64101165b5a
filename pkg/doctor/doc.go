// Package doctor examines a cpactive table and its clients from outside: segment, semaphore, records, and the processes
// that have to do with them. It reads only, and needs no daemon. gather asks the kernel, examine judges what it said.
package doctor

import (
	"context"
	"time"

	"github.com/checkprocd/checkprocd/pkg/control"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// Options say which table to examine. Zero values mean the defaults.
type Options struct {
	Key     uint32        // of the segment: table.DefaultKey
	SemKey  uint32        // of the clients' semaphore: Key
	Records int           // table.DefaultRecords
	Between time.Duration // between the two looks: 1.2 s, more than the one second that a beat is rounded to
	Ignore  []int32       // processes that map the table and are no clients: guards
}

// Examine looks at the table twice and says what it finds, the worst first; a table without fault is one finding of
// severity ok. What cannot be read is a finding too. The error is that of ctx.
func Examine(ctx context.Context, o Options) ([]control.Finding, error) {
	if o.Key == 0 {
		o.Key = table.DefaultKey
	}
	if o.SemKey == 0 {
		o.SemKey = o.Key
	}
	if o.Records == 0 {
		o.Records = table.DefaultRecords
	}
	if o.Between == 0 {
		o.Between = 1200 * time.Millisecond
	}
	f, err := gather(ctx, o)
	if err != nil {
		return nil, err
	}
	return examine(f), nil
}
