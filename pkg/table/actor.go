package table

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ActorKey is the key of the actor lock ("CPRD").
const ActorKey = 0x43505244

// ActorLock is held by the one guard of an IPC namespace that acts; the others observe. It is a semaphore, because that
// lies in just the namespace in which the table lies, whatever the guards' file systems and sockets are.
//
// The value is 0 while it is free and 1 while it is held: taking it is "wait for 0, then add 1" as one operation, so
// that a new one needs no initialisation which a crash could leave undone. The kernel takes the 1 back when the holder
// ends, however it ends (SEM_UNDO). That belongs to the process and not to the thread: Go's runtime makes its threads
// with CLONE_SYSVSEM, so they share one list of what is to be undone, which runs when the last of them is gone.
//
// The zero value is a lock that is not held. Its methods may be called from several goroutines.
type ActorLock struct {
	mu   sync.Mutex
	held bool
	id   int // while held
}

// ForeignLockError says that what stands under ActorKey is no lock of a guard: another user made or owns it, or others
// may change it, so its value means nothing, and it could not be removed. A process of uid 0 can remove it only with
// CAP_SYS_ADMIN (ipc_rmid asks for owner, creator or that; CAP_IPC_OWNER is not enough).
type ForeignLockError struct {
	ID        int
	UID, CUID uint32 // owner, creator
	Mode      uint32
	Err       error // why it was not removed
}

func (e *ForeignLockError) Error() string {
	return fmt.Sprintf("actor lock: semaphore %d under key %#x was made by uid %d, is owned by uid %d and has mode %#o: not trusted, not removed: %v",
		e.ID, ActorKey, e.CUID, e.UID, e.Mode, e.Err)
}

func (e *ForeignLockError) Unwrap() error { return e.Err }

var errNotRoot = errors.New("only root removes the object of another user")

// TryAcquire takes the lock if it is free, and never waits. While it is held it verifies that it still is: the object
// can be removed, or set by its owner, under the holder, who then holds nothing; the lock is taken anew if it can be.
// holder is the pid of the process that has it, also when that is this one; 0 when it is of another PID namespace or
// could not be found out. A *ForeignLockError or another error means not held.
func (l *ActorLock) TryAcquire() (held bool, holder int32, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held {
		ours, err := heldBySelf(l.id)
		switch {
		case err != nil: // asked again next time
			return false, 0, err
		case ours:
			return true, int32(os.Getpid()), nil
		}
		l.held = false
	}
	// Each round loses against somebody who removed the object in between; nobody does that for ever.
	for range 10 {
		var id int
		id, err = openActor()
		if err != nil {
			if errors.Is(err, ErrNotExist) {
				continue
			}
			return false, 0, err
		}
		err = semop(id, semBuf{op: 0}, semBuf{op: 1, flg: semUndo})
		switch {
		case err == nil:
			l.held, l.id = true, id
			return true, int32(os.Getpid()), nil
		case err == unix.EAGAIN:
			pid, pidErr := semctl(id, semGetPID, 0)
			if pidErr != nil {
				pid = 0
			}
			return false, int32(pid), nil
		case ipcError(err) != ErrNotExist:
			return false, 0, fmt.Errorf("take actor lock, semaphore %d: %w", id, err)
		}
	}
	return false, 0, fmt.Errorf("take actor lock: its semaphore vanished again and again: %w", ErrNotExist)
}

// Release frees the lock. It does nothing when the lock is not held. The object stays.
func (l *ActorLock) Release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held {
		return nil
	}
	l.held = false
	ours, err := heldBySelf(l.id)
	if !ours || err != nil {
		return err
	}
	if err := semop(l.id, semBuf{op: -1, flg: semUndo}); err != nil && ipcError(err) != ErrNotExist {
		return fmt.Errorf("release actor lock, semaphore %d: %w", l.id, err)
	}
	return nil
}

// heldBySelf reports whether the semaphore is taken and this process was the last to change it. A removed one is not.
func heldBySelf(id int) (bool, error) {
	value, err := semctl(id, semGetVal, 0)
	if err == nil && value == 1 {
		var pid int
		pid, err = semctl(id, semGetPID, 0)
		if err == nil {
			return pid == os.Getpid(), nil
		}
	}
	if err != nil && ipcError(err) != ErrNotExist {
		return false, fmt.Errorf("verify actor lock, semaphore %d: %w", id, err)
	}
	return false, nil
}

// openActor finds or makes the semaphore and verifies that it is a guard's. ErrNotExist when it was removed meanwhile.
func openActor() (id int, err error) {
	id, err = semget(ActorKey, 1, unix.IPC_CREAT|0o600)
	if err != nil {
		return 0, fmt.Errorf("open actor lock, semaphore under key %#x: %w", ActorKey, err)
	}
	desc, err := semstat(id)
	if err != nil {
		return 0, fmt.Errorf("stat actor lock, semaphore %d: %w", id, ipcError(err))
	}
	self := uint32(os.Geteuid())
	trusted := func(uid uint32) bool { return uid == 0 || uid == self }
	foreign := &ForeignLockError{ID: id, UID: desc.perm.Uid, CUID: desc.perm.Cuid, Mode: desc.perm.Mode & 0o777}
	if trusted(foreign.UID) && trusted(foreign.CUID) && foreign.Mode&0o077 == 0 {
		return id, nil
	}
	foreign.Err = errNotRoot
	if self == 0 {
		_, foreign.Err = semctl(id, unix.IPC_RMID, 0)
		if foreign.Err == nil || ipcError(foreign.Err) == ErrNotExist {
			return 0, ErrNotExist
		}
	}
	return 0, foreign
}
