package doctor

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
)

// shmDest is SHM_DEST of <linux/shm.h> in the column perms.
const shmDest = 0o1000

// parseShm reads /proc/sysvipc/shm (proc_sysvipc(5)): a head line, then key shmid perms size cpid lpid nattch …, and
// answers with the segments that are removed and mapped still.
func parseShm(text []byte) []removedSegment {
	var out []removedSegment
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 7 || f[0] != "0" {
			continue
		}
		perms, err := strconv.ParseUint(f[2], 8, 32)
		if err != nil || perms&shmDest == 0 {
			continue
		}
		var n [7]int
		for _, i := range []int{1, 3, 6} {
			if n[i], err = strconv.Atoi(f[i]); err != nil {
				break
			}
		}
		if err == nil && n[6] > 0 {
			out = append(out, removedSegment{id: n[1], size: n[3], attached: n[6]})
		}
	}
	return out
}

// defaultSystemMax is the highest uid of a system user where login.defs does not say (systemd's and shadow's default).
const defaultSystemMax = 999

// systemMax reads /etc/login.defs as logind does, whose RemoveIPC spares users up to SYS_UID_MAX.
func systemMax(text []byte) uint32 {
	highest := uint32(defaultSystemMax)
	in := bufio.NewScanner(bytes.NewReader(text))
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) < 2 || f[0] != "SYS_UID_MAX" {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 0, 32); err == nil {
			highest = uint32(n)
		}
	}
	return highest
}
