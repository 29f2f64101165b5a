package table

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Stat is what the kernel says about a segment (shmctl IPC_STAT).
type Stat struct {
	ID       int
	Key      uint32 // 0 once the segment is removed
	Size     int    // bytes, as asked for by the creator, not rounded to pages
	Mode     uint32 // permission bits only
	UID, GID uint32 // owner
	CUID     uint32 // creator
	CGID     uint32
	CPID     int32  // creator; 0 when it is of another PID namespace
	LPID     int32  // the last to attach or detach
	Attached uint64 // mappings
	ATime    int64  // last attach, detach and change, wall clock seconds, 0 for never
	DTime    int64
	CTime    int64
	Removed  bool // SHM_DEST: removed by somebody, alive until the last one detaches
}

// shmDest is SHM_DEST of <linux/shm.h>, a bit of the mode that the kernel sets when a mapped segment is removed.
const shmDest = 0o1000

// StatID asks the kernel about the segment with this id, which needs read permission and no mapping.
func StatID(id int) (Stat, error) {
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		return Stat{}, fmt.Errorf("stat shared memory segment %d: %w", id, ipcError(err))
	}
	return Stat{
		ID:       id,
		Key:      uint32(desc.Perm.Key),
		Size:     int(desc.Segsz),
		Mode:     desc.Perm.Mode & 0o777,
		UID:      desc.Perm.Uid,
		GID:      desc.Perm.Gid,
		CUID:     desc.Perm.Cuid,
		CGID:     desc.Perm.Cgid,
		CPID:     desc.Cpid,
		LPID:     desc.Lpid,
		Attached: desc.Nattch,
		ATime:    desc.Atime,
		DTime:    desc.Dtime,
		CTime:    desc.Ctime,
		Removed:  desc.Perm.Mode&shmDest != 0,
	}, nil
}

// LayoutError says that a segment has another size than the records asked for have: its records are not ours to read.
// Clients of the expected layout fail to register while a smaller one stands under their key, and run unguarded.
type LayoutError struct {
	Stat Stat
	Want int // bytes
}

// otherLayouts are the record sizes of other builds and programs that use the same key.
var otherLayouts = []struct {
	size int
	what string
}{
	{64, "32-bit clients with 32-bit time_t"},
	{68, "i686 clients with 64-bit time_t"},
	{40, "a tutorial program with 40-byte records"},
}

func (e *LayoutError) Error() string {
	s := &e.Stat
	return fmt.Sprintf("shared memory segment %d under key %#x has %d bytes, not %d: %s; created by uid %d, pid %d; "+
		"left alone: stop the programs that use it, remove it with \"ipcrm -m %d\", start the guard, then the programs",
		s.ID, s.Key, s.Size, e.Want, e.layout(), s.CUID, s.CPID, s.ID)
}

// layout names the known layout that has this size.
func (e *LayoutError) layout() string {
	records := e.Want / RecordSize
	for _, other := range otherLayouts {
		if e.Stat.Size == records*other.size {
			return fmt.Sprintf("the size of %d records of %s", records, other.what)
		}
	}
	if e.Stat.Size > 0 && e.Stat.Size%RecordSize == 0 {
		return fmt.Sprintf("the size of %d records of this layout, where %d are configured", e.Stat.Size/RecordSize, records)
	}
	return "the size of no known layout"
}
