package table

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Semaphore is the clients' semaphore: value 1, taken (with SEM_UNDO) by a client that looks for a free record. The
// guard never takes it, so that neither can hang the other. It owns nothing and needs no closing.
//
// Two things make new clients hang in it before they are in the table. A holder that was stopped: value 0, LastPID is
// the holder, Waiters above 0 for long. A creator that died before it set the first value: value 0, OTime 0 and Waiters
// above 0 for ever, which Repair mends.
type Semaphore struct {
	id  int
	key uint32
}

// SemState is what the kernel says about the semaphore. It is read in several calls, so clients can act in between:
// what looks wrong is looked at again.
type SemState struct {
	ID      int
	Value   int
	Waiters int   // processes that wait for the value to grow
	LastPID int32 // the last that completed an operation or set the value; 0 when of another PID namespace
	OTime   int64 // last operation, wall clock seconds, 0 for never
	CTime   int64 // created, or value set, or changed otherwise
	Mode    uint32
	UID     uint32 // owner
	CUID    uint32 // creator
}

// OpenSemaphore finds the semaphore under key. ErrNotExist when there is none.
func OpenSemaphore(key uint32) (*Semaphore, error) {
	if key == 0 {
		return nil, fmt.Errorf("open semaphore: %w", errPrivate)
	}
	id, err := semget(key, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("open semaphore under key %#x: %w", key, ipcError(err))
	}
	return &Semaphore{id: id, key: key}, nil
}

// CreateSemaphore makes the semaphore with exactly this mode and sets it to 1. When the key is taken,
// errors.Is(err, fs.ErrExist).
func CreateSemaphore(key uint32, mode uint32) (*Semaphore, error) {
	fail := func(err error) (*Semaphore, error) {
		return nil, fmt.Errorf("create semaphore under key %#x: %w", key, err)
	}
	if key == 0 {
		return fail(errPrivate)
	}
	if err := checkMode(mode); err != nil {
		return fail(err)
	}
	id, err := semget(key, 1, unix.IPC_CREAT|unix.IPC_EXCL|int(mode))
	if err != nil {
		return fail(err)
	}
	s := &Semaphore{id: id, key: key}
	// A client that found it in between waits for this; no client has had it, for it was 0.
	if err := s.Repair(); err != nil {
		return nil, err
	}
	return s, nil
}

// ID is the semid.
func (s *Semaphore) ID() int { return s.id }

// Waiters is how many wait for the semaphore: one system call, cheap enough for every tick. ErrNotExist when it was
// removed.
func (s *Semaphore) Waiters() (int, error) {
	n, err := semctl(s.id, semGetNCnt, 0)
	if err != nil {
		return 0, s.fail("count the waiters of", err)
	}
	return n, nil
}

// State asks for all that the kernel knows. ErrNotExist when the semaphore was removed.
func (s *Semaphore) State() (SemState, error) {
	desc, err := semstat(s.id)
	if err != nil {
		return SemState{}, s.fail("stat", err)
	}
	state := SemState{
		ID:    s.id,
		OTime: desc.otime,
		CTime: desc.ctime,
		Mode:  desc.perm.Mode & 0o777,
		UID:   desc.perm.Uid,
		CUID:  desc.perm.Cuid,
	}
	var pid int
	for _, ask := range []struct {
		cmd    int
		answer *int
	}{
		{semGetVal, &state.Value},
		{semGetPID, &pid},
		{semGetNCnt, &state.Waiters},
	} {
		if *ask.answer, err = semctl(s.id, ask.cmd, 0); err != nil {
			return SemState{}, s.fail("stat", err)
		}
	}
	state.LastPID = int32(pid)
	return state, nil
}

// Repair sets the value to 1, which lets one waiter go. It is for a semaphore that was never initialised: on one in
// use it would let two clients in at once, and it voids what the kernel undoes for those who hold it.
func (s *Semaphore) Repair() error {
	if _, err := semctl(s.id, semSetVal, 1); err != nil {
		return s.fail("set to 1 the", err)
	}
	return nil
}

func (s *Semaphore) fail(op string, err error) error {
	return fmt.Errorf("%s semaphore %d under key %#x: %w", op, s.id, s.key, ipcError(err))
}
