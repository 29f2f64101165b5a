package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCallName(t *testing.T) {
	for number, want := range map[int64]string{
		unix.SYS_READ: "read", unix.SYS_FUTEX: "futex", unix.SYS_EPOLL_PWAIT: "epoll_pwait", unix.SYS_PPOLL: "ppoll",
		unix.SYS_CLOCK_NANOSLEEP: "clock_nanosleep", unix.SYS_PIDFD_SEND_SIGNAL: "pidfd_send_signal",
		unix.SYS_PROCESS_MRELEASE: "process_mrelease", 300000: "300000", 400: "400",
	} {
		if got := callName(number); got != want {
			t.Errorf("%d: %s, want %s", number, got, want)
		}
	}
}

// Each constant of golang.org/x/sys is in the generated table, for both architectures, and nothing else is.
func TestCallTables(t *testing.T) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	for arch, calls := range map[string]string{"amd64": callsAMD64, "arm64": callsARM64} {
		source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(module)), "unix", "zsysnum_linux_"+arch+".go"))
		if err != nil {
			t.Fatal(err)
		}
		names := map[int64]string{}
		for _, m := range regexp.MustCompile(`\bSYS_(\w+) *= (\d+)\n`).FindAllStringSubmatch(string(source), -1) {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			names[n] = strings.ToLower(m[1])
		}
		if len(names) < 300 {
			t.Fatalf("%s: %d constants found", arch, len(names))
		}
		for n := range int64(1000) {
			want := names[n]
			if want == "" {
				want = strconv.FormatInt(n, 10)
			}
			if got := callNameIn(calls, n); got != want {
				t.Errorf("%s: %d is %s, want %s (go generate)", arch, n, got, want)
			}
		}
	}
}

func TestParseCall(t *testing.T) {
	futex := strconv.Itoa(unix.SYS_FUTEX)
	for text, want := range map[string]string{
		"running\n": "running",
		futex + " 0x7f00 0x80 0x0 0x0 0x0 0x0 0x7ffe42ab1a78 0x7f6908303503\n": "futex",
		"-1 0x7ffe42ab1a78 0x7f6908303503\n":                                   "",
		"100000 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffe42ab1a78 0x7f6908303503\n":       "100000",
		// A 32-bit program: 240 is futex there.
		"240 0x0 0x0 0x0 0x0 0x0 0x0 0xffd41a78 0xf7f08303\n": "240",
		"": "", "\n": "", "x 1 2": "", "99999999999999999999999": "",
		futex: futex, // cut: nothing says that it is of 64 bits
	} {
		if got := parseCall([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if runtime.GOARCH == "amd64" && parseCall([]byte("240 0 0 0 0 0 0 0x7ffe42ab1a78 0")) != "mq_open" {
		t.Error("240 of a 64-bit program is not mq_open")
	}
}
