// Package deploy_test checks what is installed with the tools that will read it.
package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// units are those that are installed, with what `systemd-analyze security` may find at most, in tenths.
var units = map[string]string{"checkprocd": "16", "checkproc-alert": "16"}

// events are the daemon's, by MESSAGE_ID.
var events = map[string]string{
	"572ee18a90b5aa2a3d8e36d9d29d1af8": "started",
	"b56f8c60bee5b72170b6e7075fe54304": "stopping",
	"208686a2d500a0a43b150a1203f681ee": "degraded",
	"828d78ce4e31c3010795da320960155a": "registered",
	"7acf831765639b3f8c85f36356062ab5": "unregistered",
	"333d84903870882d21be631371289732": "exited",
	"35e39871e673dd110b5b9823c8da96e6": "cleared",
	"eba0f187872150a495116192352d56e5": "late",
	"64ee35c8e63f40e8357fc1ae29f85ba2": "condemned",
	"90b9085f171c08ac5901fec3f9f04b34": "would-condemn",
	"917137601d5e857006bb76f7822b9a13": "protected",
	"ff66f2f93d7499fe1b0370edcf0a8619": "config-changed",
	"69caa11271b06730e80f48fc0f10f570": "config-applied",
	"1dd1ab12dec1ea863b9e4262aee9a0e8": "config-check-failed",
	"f0197c5951aeb6d3af443171a261f0c6": "config-blamed",
	"563358afddafcf4cbe3f8073061e1869": "config-delayed",
	"240ed0a21f64929993eb55f23aeed8a1": "would-clear",
	"63cb2edad242c3ec60e042af82de5793": "waiting",
	"aead1785821e2639ed108de8cd15c05c": "signalled",
	"b9377f7509b0ed895ce00f4f79e23edc": "recovered",
	"043bfc05b454d2e6f20aadbafca7b3fb": "killed",
	"4475d091e69831cc23c9999384bf8a1f": "unkillable",
	"1a5e2d38d87c4b00725402895e8d66af": "refused",
	"8cc28313b0ebdc817d50f8427a3c1853": "foreign",
	"5bb8540059dd322c97e1d0bfebf942a5": "unguarded",
	"24bc054190cd5a8a62d31fb2bcdc3ee0": "changed",
	"a7754afd313da68bf1455789c45f8eda": "ignored",
	"282d9a00cb4a3ce94fcc6439f9fd6636": "held",
	"ee4f6460bafdc7c512d5b8e293ea52d8": "released",
	"1fec86a330173fce2d2f5215c9843941": "paused",
	"2cd0828748731dc456394ea2cc65af25": "resumed",
	"1cdcf95e1b8c6b58197eac18adf7bd86": "brake-on",
	"f7cf8ff19628a909a03167535fd6c67c": "brake-off",
	"81bfb2f6dcb807094840dbfa181de5ea": "gap",
	"143e34e67e900b106aca83b32831ed4d": "table-attached",
	"d0910f0cd10708ceeb436fd3af68aa52": "table-lost",
	"8bde3f0b3ac451e7f69bb00009fc5758": "table-full",
	"657b1ca3ef1796b7c47d74132c4ffaae": "semaphore",
	"7d1560dd65399637b9e71d59ca0104ed": "old-guard",
	"f072c86ba45de536cc40a0c6cf0744ee": "collateral",
	"ef284faba2cf64c7b36693e7f31f2b3c": "unreaped",
	"3ad9070971fcdd647efbe3e46f21214d": "limit",
	"5a49916a6273f4ddd40b07b6bc4f742b": "limit-over",
	"48b711beb3274d96d0efd7a156504a5c": "limit-restarted",
	"f281cf8634eb1eda1dead865b2eccb25": "limit-failed",
	"9a20fcdd8902648aa85c1b2f8e186708": "throttled",
	"7f2d5c2a833f3dcf24d72753d0834390": "unthrottled",
	"49c151506fcf5743645a789c959d5399": "restored",
	"efaf3a9afb0eed981d19ea6ac3e2212e": "restore-failed",
	"3ce0a0a0fe452fd6972bc4d01e83dae2": "left-down",
	"98742bbe817234071eea426d1ca3d6f2": "gave-up",
	"d1db01668c399241e4986b3e3f937f70": "retrying",
	"1cfd01589a8a35f7c9929af4f0f69e57": "acting",
	"26254f0d6b3e5675d6d46b8dfd98c90c": "observing",
	"7564c1808f43202a48cd000bcdf2622b": "reloaded",
	"c084dbe0efe8cce1d66f7ee9eaffceff": "config-rejected",
	"589a0d5c5e3b74140b9355a4395f3e3f": "alert-test",
	"3ef7788ab9d004268f1ae127a10afe8e": "denied",
}

// missing skips the test, saying what is missing; where everything has to be there (CI=true), it fails.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

func tool(t *testing.T, name, debianPackage string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		missing(t, name+" (package "+debianPackage+")")
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_LOG_TARGET=console")
	return cmd
}

// quiet runs a command that has nothing to say about a file without faults.
func quiet(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// installUnit writes the unit as an installation does, with binaries that exist, and returns its path.
func installUnit(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, binary := range []string{"checkprocd", "checkprocctl", "checkproc-alert"} {
		write(t, filepath.Join(dir, "bin", binary), "#!/bin/sh\n", 0o755)
	}
	unit := filepath.Join(dir, "system", name+".service")
	write(t, unit, strings.ReplaceAll(file(t, name+".service.in"), "@bindir@", filepath.Join(dir, "bin")), 0o644)
	return unit
}

func TestUnitVerifies(t *testing.T) {
	for name := range units {
		quiet(t, tool(t, "systemd-analyze", "systemd", "verify", "--man=no", "--recursive-errors=no", installUnit(t, name)))
	}
}

func TestUnitExposure(t *testing.T) {
	for name, exposure := range units {
		cmd := tool(t, "systemd-analyze", "systemd", "security", "--offline=true", "--no-pager", "--threshold="+exposure, installUnit(t, name))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		} else {
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			t.Log(lines[len(lines)-1])
		}
	}
}

// Each line of the hardening stands below a comment of its own.
func TestUnitLinesHaveReasons(t *testing.T) {
	for name := range units {
		unit := file(t, name+".service.in")
		begin, end := strings.Index(unit, "\n# Rights."), strings.Index(unit, "\n[Install]")
		if begin < 0 || end < begin {
			t.Fatalf("%s: the lines about rights are not found", name)
		}
		lines := strings.Split(unit[begin:end], "\n")
		settings := 0
		for i, line := range lines {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			settings++
			if i == 0 || !strings.HasPrefix(lines[i-1], "#") {
				t.Errorf("%s: %s: no reason above it", name, line)
			}
		}
		if settings < 20 {
			t.Errorf("%s: %d settings found", name, settings)
		}
	}
}

// What would blind the guard, void its rights or leave it dead must not be set.
func TestUnitHasNoTraps(t *testing.T) {
	unit := file(t, "checkprocd.service.in")
	for _, trap := range []string{
		"DynamicUser", "RemoveIPC", "PrivateIPC", "PrivateUsers", "PrivatePIDs", "ProcSubset", "RestrictRealtime",
		"User", "Type=notify-reload", "CPUSchedulingPolicy", "RestartPreventExitStatus=2",
	} {
		if regexp.MustCompile(`(?m)^` + trap + `(=|$)`).MatchString(unit) {
			t.Errorf("%s is set", trap)
		}
	}
}

func TestUnitKeepsItsPromises(t *testing.T) {
	lines := strings.Split(file(t, "checkprocd.service.in"), "\n")
	for _, want := range []string{
		"Type=notify", "NotifyAccess=main", "Restart=always", "StartLimitIntervalSec=0", "RestartPreventExitStatus=78",
		"ExecStart=@bindir@/checkprocd", "ExecReload=@bindir@/checkprocctl reload --wait", "RuntimeDirectory=checkprocd",
		"RuntimeDirectoryPreserve=yes", "LimitRTPRIO=1", "LimitMEMLOCK=infinity", "SystemCallFilter=sched_setattr prlimit64 process_mrelease",
		"CapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_IPC_OWNER",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("missing: %s", want)
		}
	}
}

type entry struct {
	id      string
	headers map[string]string
	text    string
}

// catalog parses the catalog (https://systemd.io/CATALOG/).
func catalog(t *testing.T) []entry {
	t.Helper()
	var kept []string
	for line := range strings.Lines(file(t, "checkprocd.catalog")) {
		if !strings.HasPrefix(line, "#") {
			kept = append(kept, line)
		}
	}
	var entries []entry
	for part := range strings.SplitSeq("\n"+strings.Join(kept, ""), "\n-- ") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		head, text, _ := strings.Cut(part, "\n\n")
		lines := strings.Split(head, "\n")
		e := entry{id: lines[0], headers: map[string]string{}, text: strings.TrimSpace(text)}
		for _, line := range lines[1:] {
			name, value, _ := strings.Cut(line, ": ")
			e.headers[name] = value
		}
		entries = append(entries, e)
	}
	return entries
}

func TestCatalogHasEveryEvent(t *testing.T) {
	seen := map[string]string{}
	for _, e := range catalog(t) {
		if seen[e.id] != "" {
			t.Errorf("%s comes twice", e.id)
		}
		seen[e.id] = events[e.id]
		if e.headers["Subject"] == "" || len(e.headers["Subject"]) > 100 {
			t.Errorf("%s: Subject %q", events[e.id], e.headers["Subject"])
		}
		if e.headers["Defined-By"] != "checkprocd" || e.headers["Support"] != "https://github.com/checkprocd/checkprocd" {
			t.Errorf("%s: %v", events[e.id], e.headers)
		}
		if len(e.text) < 60 {
			t.Errorf("%s: no explanation: %q", events[e.id], e.text)
		}
		for _, field := range regexp.MustCompile(`@[^@\s]*@`).FindAllString(e.headers["Subject"]+e.text, -1) {
			switch field {
			case "@MESSAGE@", "@CHECKPROC_PID@", "@CHECKPROC_NAME@", "@CHECKPROC_UNIT@":
			default: // journalctl prints the bare name of a field that a record does not have
				t.Errorf("%s: %s is not in every record of this event", events[e.id], field)
			}
		}
		for line := range strings.Lines(e.text) {
			if len(line) > 81 {
				t.Errorf("%s: a line of %d characters: %s", events[e.id], len(line), line)
			}
		}
	}
	if diff := cmp.Diff(events, seen); diff != "" {
		t.Errorf("events without an entry, or entries without an event: %s", diff)
	}
}

// journald's own tool takes the catalog, and gives each entry back.
func TestCatalogCompiles(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "usr/lib/systemd/catalog/checkprocd.catalog"), file(t, "checkprocd.catalog"), 0o644)
	quiet(t, tool(t, "journalctl", "systemd", "--root="+root, "--update-catalog"))
	out, err := tool(t, "journalctl", "systemd", "--root="+root, "--list-catalog").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got, want []string
	for line := range strings.Lines(string(out)) {
		id, subject, _ := strings.Cut(strings.TrimSpace(line), " ")
		_, subject, _ = strings.Cut(subject, ": ")
		got = append(got, id+" "+subject)
	}
	for _, e := range catalog(t) {
		want = append(want, e.id+" "+e.headers["Subject"])
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSysusers(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n", 0o644)
	write(t, filepath.Join(root, "usr/lib/sysusers.d/checkprocd.conf"), file(t, "checkprocd.sysusers.conf"), 0o644)
	cmd := tool(t, "systemd-sysusers", "systemd", "--dry-run", "--root="+root, "checkprocd.conf")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "group checkprocd") && !strings.Contains(string(out), "group 'checkprocd'") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTmpfiles(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/passwd"), "root:x:0:0::/:/bin/sh\n", 0o644)
	write(t, filepath.Join(root, "etc/group"), "root:x:0:\n", 0o644)
	write(t, filepath.Join(root, "usr/lib/tmpfiles.d/checkprocd.conf"), file(t, "checkprocd.tmpfiles.conf"), 0o644)
	if os.Geteuid() != 0 {
		missing(t, "uid 0")
	}
	quiet(t, tool(t, "systemd-tmpfiles", "systemd", "--root="+root, "--create", "checkprocd.conf"))
	for _, dir := range []string{"etc/checkprocd", "etc/checkprocd/conf.d"} {
		if st, err := os.Stat(filepath.Join(root, dir)); err != nil || st.Mode() != os.ModeDir|0o755 {
			t.Errorf("%s: %v, %v", dir, st, err)
		}
	}
}

func manPages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("man/*.[158]")
	if err != nil || len(pages) != 4 {
		t.Fatalf("man pages: %v, %v", pages, err)
	}
	return pages
}

func TestManPagesLint(t *testing.T) {
	for _, page := range manPages(t) {
		quiet(t, tool(t, "mandoc", "mandoc", "-T", "lint", "-W", "warning", page))
	}
}

func TestManPagesFormat(t *testing.T) {
	for _, page := range manPages(t) {
		cmd := tool(t, "man", "man-db", "--warnings", "--encoding=UTF-8", "-Tutf8", "-l", page)
		cmd.Env = append(cmd.Env, "MANWIDTH=80")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || stderr.Len() > 0 || len(out) < 1000 {
			t.Errorf("%s: %v, %d bytes\n%s", page, err, len(out), stderr.String())
		}
	}
}

func TestManPageNamesEveryEvent(t *testing.T) {
	page := file(t, "man/checkprocd.8")
	for _, name := range events {
		if !strings.Contains(page, "\n.It Cm "+name+"\n") {
			t.Errorf("checkprocd(8) does not name the event %s", name)
		}
	}
}
