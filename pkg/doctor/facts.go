package doctor

import (
	"github.com/checkprocd/checkprocd/pkg/process"
	"github.com/checkprocd/checkprocd/pkg/table"
)

// facts are all that examine judges. first and second are two looks, Options.Between apart.
type facts struct {
	key, semKey uint32
	records     int

	segmentErr error      // no table could be read: table.ErrNotExist, *table.LayoutError, fs.ErrPermission
	stat       table.Stat // before our own attaching; also with a LayoutError
	hasStat    bool       //
	after      table.Stat // at the second look
	attached   table.Stat // just after our own attaching
	first      []table.Record
	second     []table.Record

	semErr  error // table.ErrNotExist: none
	semKept bool  // sem and semNext are of one semaphore
	sem     table.SemState
	semNext table.SemState

	processes map[int32]proc // pids of records, and all others that could be looked at
	mapping   []int32        // processes without a record that map the segment
	removed   []removedSegment
	maxSystem uint32            // the highest uid of a system user
	users     map[uint32]string // names of uids that occur, where they have one
	holders   map[int][]int32   // by the id of a removed segment: who maps it
	limits    []string          // what could not be looked at, and why
}

// proc is a process as it was between the looks.
type proc struct {
	process.Facts
	look    process.Look
	openErr error           // process.ErrGone, ErrZombie, *process.RefusedError, others
	consent process.Consent // asked for pids of records only
	asked   error           // why the consent is unknown
}

// removedSegment is a line of /proc/sysvipc/shm with key 0 and SHM_DEST: removed, and still mapped.
type removedSegment struct {
	id       int
	size     int
	attached int
}
