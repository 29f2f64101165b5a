package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

const boot = "0b5a4b4e-6a4c-4e3c-8a55-0d1fbe1c1d3a"

func TestMain(m *testing.M) {
	if path := os.Getenv(envSaver); path != "" {
		saveForEver(path)
	}
	goleak.VerifyTestMain(m)
}

func mustOpen(t testing.TB, path string) (*File, []byte) {
	t.Helper()
	f, payload, err := Open(path, 1, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, payload
}

func mustSave(t testing.TB, f *File, payload []byte) {
	t.Helper()
	if err := f.Save(payload); err != nil {
		t.Fatal(err)
	}
}

// pattern is a payload of n bytes that differs for each seed.
func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i*7) + byte(i>>8)
	}
	return b
}

func TestSaveAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	f, payload := mustOpen(t, path)
	if payload != nil {
		t.Errorf("a new file holds %q", payload)
	}
	f.Close()
	if f, payload = mustOpen(t, path); payload != nil {
		t.Errorf("a file without a Save holds %q", payload)
	}
	// Growing, shrinking, empty: what was saved last comes back, also after several Saves.
	for i, n := range []int{1, 100, growStep, growStep + 1, 5, 3 * growStep, 10 * growStep, 0, 200_000, 1 << 20, 1} {
		for j := range 1 + i%3 {
			mustSave(t, f, pattern(byte(i+j), n))
		}
		f.Close()
		var got []byte
		f, got = mustOpen(t, path)
		if want := pattern(byte(i+i%3), n); !bytes.Equal(got, want) {
			t.Fatalf("%d: got %d bytes, want %d", i, len(got), n)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if limit := int64(3*(3<<20)/2 + payloadBase + 2*growStep); info.Size() > limit {
		t.Errorf("grown to %d bytes, more than %d", info.Size(), limit)
	}
	if flags, err := unix.FcntlInt(f.f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("no O_CLOEXEC: %#x, %v", flags, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func TestClosed(t *testing.T) {
	f, _ := mustOpen(t, filepath.Join(t.TempDir(), "registry"))
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if err := f.Save(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Save after Close: %v", err)
	}
}

func TestOtherBoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	f, _ := mustOpen(t, path)
	mustSave(t, f, []byte("old"))
	f.Close()
	// Of another boot, the version does not matter.
	f, payload, err := Open(path, 2, "another")
	if payload != nil || err != nil {
		t.Fatalf("got %q, %v", payload, err)
	}
	mustSave(t, f, []byte("new"))
	f.Close()
	if f, payload, err = Open(path, 2, "another"); string(payload) != "new" || err != nil {
		t.Errorf("got %q, %v", payload, err)
	}
	f.Close()
	for _, id := range []string{"", strings.Repeat("x", bootIDSize+1)} {
		if _, _, err := Open(path, 1, id); err == nil {
			t.Errorf("boot id %q is taken", id)
		}
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("got %q, %v", id, err)
	}
}

func TestForeignVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	f, _ := mustOpen(t, path)
	mustSave(t, f, []byte("version 1"))
	f.Close()
	f, payload, err := Open(path, 2, boot)
	var damaged *DamagedError
	if !errors.As(err, &damaged) || payload != nil {
		t.Fatalf("got %q, %v", payload, err)
	}
	want := "read " + path + ": foreign version: the file has 1, this daemon reads 2; begun anew, the old file is kept as " + path + ".damaged"
	if err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	mustSave(t, f, []byte("version 2"))
	f.Close()
	f, payload = mustOpen(t, damaged.Kept)
	f.Close()
	if string(payload) != "version 1" {
		t.Errorf("kept is %q", payload)
	}
}

func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to give a file away needs root")
	}
	path := filepath.Join(t.TempDir(), "registry")
	f, _ := mustOpen(t, path)
	mustSave(t, f, []byte("planted"))
	f.Close()
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	f, payload, err := Open(path, 1, boot)
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Reason != "belongs to uid 65534, not to 0" || payload != nil {
		t.Fatalf("got %q, %v", payload, err)
	}
	f.Close()
}

func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	f, _ := mustOpen(t, path)
	f.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	f, _ := mustOpen(t, path)
	if _, _, err := Open(path, 1, boot); !errors.Is(err, ErrHeld) || err.Error() != "lock "+path+": held by another daemon" {
		t.Errorf("got %v", err)
	}
	mustSave(t, f, []byte("mine"))
	f.Close()
	if _, payload := mustOpen(t, path); string(payload) != "mine" {
		t.Errorf("got %q", payload)
	}
}

// TestHeldRace: of many that open at once one gets the file, new, whole or damaged.
func TestHeldRace(t *testing.T) {
	for round := range 60 {
		path := filepath.Join(t.TempDir(), "registry")
		switch round % 3 {
		case 1:
			f, _ := mustOpen(t, path)
			f.Close()
		case 2:
			if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var won, open atomic.Int32
		var all sync.WaitGroup
		hold := make(chan struct{})
		var tried sync.WaitGroup
		for range 8 {
			tried.Add(1)
			all.Go(func() {
				f, _, err := Open(path, 1, boot)
				var damaged *DamagedError
				if err == nil || errors.As(err, &damaged) {
					won.Add(1)
					if n := open.Add(1); n > 1 {
						t.Errorf("%d have the file", n)
					}
					tried.Done()
					<-hold
					f.Close()
					return
				}
				tried.Done()
				if !errors.Is(err, ErrHeld) {
					t.Error(err)
				}
			})
		}
		tried.Wait()
		if won.Load() != 1 {
			t.Errorf("round %d: %d of 8 got the file", round, won.Load())
		}
		close(hold)
		all.Wait()
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	target, link, fifo := dir+"/target", dir+"/link", dir+"/fifo"
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(target, link), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		link:               ": is a symbolic link",
		fifo:               ": is no regular file",
		dir:                ": is a directory",
		dir + "/no/where":  ": no such file or directory",
		"/dev/null":        ": is no regular file",
		target + "/inside": ": not a directory",
	} {
		f, _, err := Open(path, 1, boot)
		if err == nil {
			f.Close()
		}
		if err == nil || err.Error() != "open "+path+want {
			t.Errorf("got %v, want open %s%s", err, path, want)
		}
	}
	// A link in the place of the file that is to be made.
	if err := os.Symlink(target, dir+"/registry.new"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir+"/registry", 1, boot); err == nil {
		t.Error("a symbolic link was followed")
	}
	if got, err := os.ReadFile(target); string(got) != "precious" {
		t.Errorf("the target of the link is %q, %v", got, err)
	}
}

// TestLeftNew: what an interrupted creation left behind is in nobody's way.
func TestLeftNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	if err := os.WriteFile(path+".new", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, _ := mustOpen(t, path)
	mustSave(t, f, []byte("x"))
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left over: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestSaveDoesNotAllocate(t *testing.T) {
	f, _ := mustOpen(t, filepath.Join(t.TempDir(), "registry"))
	payload := pattern(1, 200_000)
	mustSave(t, f, payload)
	mustSave(t, f, payload)
	if n := testing.AllocsPerRun(100, func() {
		payload[0]++
		if err := f.Save(payload); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Save allocates %v times", n)
	}
}

func TestTooLarge(t *testing.T) {
	f, _ := mustOpen(t, filepath.Join(t.TempDir(), "registry"))
	mustSave(t, f, []byte("x"))
	if err := f.Save(make([]byte, maxPayload+1)); err == nil {
		t.Error("saved")
	}
}

// image is a file with two whole generations, and where they lie.
type image struct {
	data         []byte
	slots        [2]generation
	live         int
	older, newer []byte
}

// drawImage saves payloads of any size until there are two.
func drawImage(t *rapid.T, path string) image {
	f, _, err := Open(path, 1, boot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var im image
	size := rapid.OneOf(rapid.IntRange(1, 300), rapid.IntRange(1, 3*growStep))
	for i := range rapid.IntRange(2, 6).Draw(t, "saves") {
		im.older = im.newer
		im.newer = pattern(byte(i), size.Draw(t, "size"))
		if err := f.Save(im.newer); err != nil {
			t.Fatal(err)
		}
	}
	im.slots, im.live = f.slots, f.live
	if im.data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return im
}

// damage flips bits of a few bytes of one generation, and says in what part.
func (im *image) damage(t *rapid.T, data []byte, slot int) {
	g := im.slots[slot]
	start, length := int64(slot)*headerPage, int64(headerSize)
	if rapid.Bool().Draw(t, "in the payload") {
		start, length = g.offset, g.length
	}
	seen := map[int64]bool{}
	for range rapid.IntRange(1, 20).Draw(t, "bytes") {
		at := start + rapid.Int64Range(0, length-1).Draw(t, "at")
		if !seen[at] { // twice the same would be no damage
			data[at] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
		}
		seen[at] = true
	}
}

// check opens data as a registry and compares what it holds.
func check(t rapid.TB, path string, data, want []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, got, err := Open(path, 1, boot)
	var damaged *DamagedError
	switch {
	case want == nil && (!errors.As(err, &damaged) || got != nil):
		t.Fatalf("no *DamagedError: %d bytes, %v", len(got), err)
	case want != nil && (err != nil || !bytes.Equal(got, want)):
		t.Fatalf("got %d bytes, want %d: %v", len(got), len(want), err)
	}
	if want == nil {
		kept, err := os.ReadFile(damaged.Kept)
		if err != nil || !bytes.Equal(kept, data) {
			t.Fatalf("the damaged file is not kept: %v", err)
		}
	}
	// It goes on from here.
	for i := range 3 {
		next := pattern(byte(100+i), 70_000*i+1)
		if err := f.Save(next); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if f, got, err = Open(path, 1, boot); err != nil || !bytes.Equal(got, next) {
			t.Fatalf("Save after damage: %v", err)
		}
	}
	f.Close()
}

func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	rapid.Check(t, func(t *rapid.T) {
		os.Remove(path)
		im := drawImage(t, path)
		switch rapid.IntRange(0, 2).Draw(t, "which") {
		case 0:
			im.damage(t, im.data, 1-im.live)
			check(t, path, im.data, im.newer)
		case 1:
			im.damage(t, im.data, im.live)
			check(t, path, im.data, im.older)
		case 2:
			im.damage(t, im.data, 0)
			im.damage(t, im.data, 1)
			check(t, path, im.data, nil)
		}
	})
}

func TestTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	rapid.Check(t, func(t *rapid.T) {
		os.Remove(path)
		im := drawImage(t, path)
		size := rapid.IntRange(0, len(im.data)-1).Draw(t, "size")
		// Near the ends of what matters is where mistakes would be.
		if rapid.Bool().Draw(t, "near an end") {
			g := im.slots[rapid.IntRange(0, 1).Draw(t, "slot")]
			size = int(rapid.SampledFrom([]int64{0, 1, headerSize, headerPage, headerPage + headerSize, payloadBase,
				g.offset + g.length, g.offset}).Draw(t, "end")) + rapid.IntRange(-1, 1).Draw(t, "by")
			size = min(max(size, 0), len(im.data))
		}
		whole := func(slot int) bool {
			return size >= slot*headerPage+headerSize && int64(size) >= im.slots[slot].offset+im.slots[slot].length
		}
		var want []byte
		if whole(im.live) {
			want = im.newer
		} else if whole(1 - im.live) {
			want = im.older
		}
		check(t, path, im.data[:size], want)
	})
}

// TestKilledInSave: the bytes of a Save reach the file in order; whoever is killed at any of them leaves the former
// generation or, at the end, the new one.
func TestKilledInSave(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry")
	rapid.Check(t, func(t *rapid.T) {
		os.Remove(path)
		im := drawImage(t, path)
		f, _, err := Open(path, 1, boot)
		if err != nil {
			t.Fatal(err)
		}
		next := pattern(50, rapid.OneOf(rapid.IntRange(1, 300), rapid.IntRange(1, 4*growStep)).Draw(t, "next"))
		if err := f.Save(next); err != nil {
			t.Fatal(err)
		}
		f.Close()
		g, slot := f.slots[f.live], f.live
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if slot == im.live {
			t.Fatal("the live generation was overwritten")
		}
		torn := make([]byte, len(after)) // what fallocate added is zero
		copy(torn, im.data)
		total := int(g.length) + headerSize
		written := rapid.OneOf(rapid.IntRange(0, total), rapid.IntRange(int(g.length), total)).Draw(t, "written")
		copy(torn[g.offset:], after[g.offset:g.offset+min(int64(written), g.length)])
		if header := written - int(g.length); header > 0 {
			at := slot * headerPage
			copy(torn[at:], after[at:at+header])
		}
		want := im.newer
		if bytes.Equal(torn, after) { // all that differs is there: then it counts
			want = next
		}
		check(t, path, torn, want)
	})
}

func TestGeneration(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generation{
			version: rapid.Uint32().Draw(t, "version"),
			number:  rapid.Uint64Range(1, 1<<62).Draw(t, "number"),
			offset:  rapid.Int64Range(payloadBase, 4*maxPayload).Draw(t, "offset"),
			length:  rapid.Int64Range(0, maxPayload).Draw(t, "length"),
			sum:     rapid.Uint32().Draw(t, "sum"),
		}
		g.room = rapid.Int64Range(g.length, 2*maxPayload).Draw(t, "room")
		copy(g.bootID[:], boot)
		var b [headerSize]byte
		g.encode(&b)
		got, err := decode(b[:], g.offset+g.length)
		if err != nil || got != g {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, g)
		}
		if _, err := decode(b[:], g.offset+g.length-1); err == nil {
			t.Fatal("read beyond the end of the file")
		}
	})
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	r, _ := mustOpen(f, path)
	for i := range 3 {
		mustSave(f, r, pattern(byte(i), 20))
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data[:payloadBase+200], false)
	}
	r.Close()
	// Headers with right checksums and wrong numbers.
	for range 20 {
		g := generation{version: 1, number: rand.Uint64(), offset: rand.Int64N(20_000), room: rand.Int64N(20_000), length: rand.Int64N(20_000)}
		copy(g.bootID[:], boot)
		var b [headerSize]byte
		g.encode(&b)
		f.Add(append(b[:], make([]byte, payloadBase)...), true)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // makes the checksums of the headers right, so that what is behind them is reached
			for at := 0; at+headerSize <= len(data) && at <= headerPage; at += headerPage {
				copy(data[at:], magic)
				h := data[at : at+headerSize]
				g := generation{
					version: binary.LittleEndian.Uint32(h[8:]), number: binary.LittleEndian.Uint64(h[76:]),
					offset: int64(binary.LittleEndian.Uint64(h[84:])), room: int64(binary.LittleEndian.Uint64(h[92:])),
					length: int64(binary.LittleEndian.Uint64(h[100:])), sum: binary.LittleEndian.Uint32(h[108:]),
				}
				copy(g.bootID[:], boot)
				g.encode((*[headerSize]byte)(h))
			}
		}
		path := filepath.Join(t.TempDir(), "registry")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, _, err := Open(path, 1, boot)
		var damaged *DamagedError
		if err != nil && !errors.As(err, &damaged) {
			t.Fatal(err)
		}
		defer r.Close()
		// The offset of a header that counts may lie far behind: 1 GB, of which the file system takes no notice.
		for i := range 2 {
			want := fmt.Appendf(nil, "saved %d", i)
			mustSave(t, r, want)
			r.Close()
			var got []byte
			if r, got, err = Open(path, 1, boot); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		r.Close()
	})
}

func BenchmarkSave(b *testing.B) {
	f, _ := mustOpen(b, filepath.Join(b.TempDir(), "registry"))
	payload := pattern(1, 200_000) // a thousand targets
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		mustSave(b, f, payload)
	}
}
