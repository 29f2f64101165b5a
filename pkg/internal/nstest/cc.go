package nstest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// compiled holds the program for each source and flags, so that a test binary asks the compiler once for each.
var compiled = struct {
	sync.Mutex
	programs map[string]string
}{programs: map[string]string{}}

// CC compiles the C source src with cc -std=gnu11 -O2 -Wall -Wextra -Werror and flags, which may name libraries, and
// returns the program's path. Programs are kept in $TMPDIR/checkprocd-cc-UID under the hash of the compiler's version,
// the flags and the preprocessed source, so an unchanged one is compiled once, and every user may run them.
//
// Without a compiler the test is skipped; with CI=true it fails. A source that does not compile fails the test.
func CC(t testing.TB, src string, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		Unavailable(t, fmt.Sprintf("no C compiler for %s: %v", src, err))
	}
	// Opened here so that "go test" knows that its cached result depends on the source.
	if _, err := os.ReadFile(src); err != nil {
		t.Fatalf("read C source: %v", err)
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		t.Fatalf("find %s: %v", src, err)
	}

	compiled.Lock()
	defer compiled.Unlock()
	key := abs + "\x00" + strings.Join(flags, "\x00")
	if program, ok := compiled.programs[key]; ok {
		return program
	}
	program, err := compile(cc, abs, flags)
	if err != nil {
		t.Fatalf("compile %s: %v", src, err)
	}
	compiled.programs[key] = program
	return program
}

func compile(cc, src string, flags []string) (program string, err error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("checkprocd-cc-%d", os.Getuid()))
	if err := ownDir(dir); err != nil {
		return "", err
	}
	args := append([]string{"-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"}, "-o", "", src)
	out := len(args) - 2
	args = append(args, flags...)

	version, err := exec.Command(cc, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", cc, err)
	}
	expand := exec.Command(cc, append([]string{"-E", src}, flags...)...)
	var complaint strings.Builder
	expand.Stderr = &complaint
	text, err := expand.Output()
	if err != nil {
		return "", fmt.Errorf("preprocess: %w\n%s", err, complaint.String())
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%q\x00", version, args)
	sum.Write(text)
	base := strings.TrimSuffix(filepath.Base(src), ".c")
	program = filepath.Join(dir, base+"-"+hex.EncodeToString(sum.Sum(nil)[:12]))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}

	// Under another name first: two test binaries may compile the same source at once.
	fresh, err := os.CreateTemp(dir, base+".*")
	if err != nil {
		return "", err
	}
	fresh.Close()
	defer os.Remove(fresh.Name())
	args[out] = fresh.Name()
	if output, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", cc, strings.Join(args, " "), err, output)
	}
	if err := os.Chmod(fresh.Name(), 0o755); err != nil {
		return "", err
	}
	return program, os.Rename(fresh.Name(), program)
}

// ownDir makes dir, or verifies that it is a directory which only this user can write to: what lies in it is executed.
func ownDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		return os.Chmod(dir, 0o755)
	}
	info, statErr := os.Lstat(dir)
	if statErr != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return &fs.PathError{Op: "use", Path: dir, Err: fmt.Errorf("not a directory that only uid %d can write to", os.Getuid())}
	}
	return nil
}
