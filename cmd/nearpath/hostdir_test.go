package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func openDir(t *testing.T, path string) *hostDir {
	t.Helper()
	d, err := openHostDir(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put(t *testing.T, dir, name, text string, perm fs.FileMode) (changed bool) {
	t.Helper()
	d := openDir(t, dir)
	defer d.close()
	changed, err := d.put(name, []byte(text), perm)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPut(t *testing.T) { // not parallel: the umask is the process's
	old := syscall.Umask(0o077) // a mode is not cut by the umask of whoever installs
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "made", "by", "us")
	for i, step := range []struct {
		text string
		perm fs.FileMode
		want bool
	}{{"one", 0o755, true}, {"one", 0o755, false}, {"two", 0o755, true}, {"two", 0o644, true}} {
		if got := put(t, dir, "plugin", step.text, step.perm); got != step.want {
			t.Errorf("step %d: changed %v, want %v", i, got, step.want)
		}
		info, err := os.Stat(filepath.Join(dir, "plugin"))
		text, _ := os.ReadFile(filepath.Join(dir, "plugin"))
		if err != nil || info.Mode() != step.perm || string(text) != step.text {
			t.Errorf("step %d: %v %q, %v", i, info.Mode(), text, err)
		}
	}
	if names := filesIn(t, dir); len(names) != 1 {
		t.Errorf("the directory holds %v", names)
	}
}

// TestPutOverARunningProgram: the file may be running at the moment ("text file busy").
func TestPutOverARunningProgram(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	put(t, dir, "plugin", string(text), 0o755)
	running := exec.CommandContext(t.Context(), filepath.Join(dir, "plugin"), "60")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile(filepath.Join(dir, "plugin"), os.O_WRONLY, 0); !errors.Is(err, syscall.ETXTBSY) {
		t.Errorf("the running file can be opened for writing: %v, %v", f, err)
	}
	put(t, dir, "plugin", "new", 0o755)
	if err := running.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the running program: %v", err)
	}
	_ = running.Process.Kill()
	_ = running.Wait()
}

// TestPutStaysInTheDirectory: a link in the place of the file, or of a temporary one, is replaced and not followed.
func TestPutStaysInTheDirectory(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	writeFile(t, outside, "precious")
	for _, name := range []string{"plugin", ".plugin.0123456789abcdef"} {
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "plugin", "precious", 0o755) // the same content: a link to it is not the file
	put(t, dir, "plugin", "new", 0o755)
	if text, _ := os.ReadFile(outside); string(text) != "precious" {
		t.Errorf("a file outside holds %q", text)
	}
	if info, err := os.Lstat(filepath.Join(dir, "plugin")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	if names := filesIn(t, dir); len(names) != 1 {
		t.Errorf("the directory holds %v", names)
	}
	d := openDir(t, dir)
	defer d.close()
	if _, err := d.put("../plugin", []byte("x"), 0o755); err == nil {
		t.Error("a name that leads out of the directory is accepted")
	}
}

// TestSweepTakesOursOnly: what others have in the directory, however it is called, stays.
func TestSweepTakesOursOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	others := []string{".plugin.swp", ".plugin.0123", ".other.0123456789abcdef", "plugin.0123456789abcdef"}
	for _, name := range append(others, ".plugin.0123456789abcdef") {
		writeFile(t, filepath.Join(dir, name), "x")
	}
	put(t, dir, "plugin", "new", 0o755)
	if names := filesIn(t, dir); len(names) != len(others)+1 {
		t.Errorf("the directory holds %v", names)
	}
}

// TestWritersTakeTurns: nobody sweeps away what another is about to rename.
func TestWritersTakeTurns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	done := make(chan error, 8)
	for i := range cap(done) {
		go func() {
			d, err := openHostDir(t.Context(), dir)
			if err == nil {
				_, err = d.put("plugin", []byte(strings.Repeat(fmt.Sprint(i), 1<<16)), 0o755)
				d.close()
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "plugin"))
	if err != nil || strings.Trim(string(text), string(text[:1])) != "" || len(text) != 1<<16 {
		t.Errorf("a mixture of %d bytes, %v", len(text), err)
	}
}

// crashDir tells a copy of this test to write to a directory until it is killed.
const crashDir = "NEARPATH_TEST_CRASH_DIR"

// TestPutIsWholeAfterAKill ends writers at any point: the file is always a whole one, and the next writer cleans up.
func TestPutIsWholeAfterAKill(t *testing.T) {
	t.Parallel()
	texts := []string{strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20)}
	if dir := os.Getenv(crashDir); dir != "" {
		for i := 0; ; i++ {
			put(t, dir, "plugin", texts[i%2], 0o755)
		}
	}
	dir := t.TempDir()
	put(t, dir, "plugin", texts[0], 0o755)
	left := 0
	// Enough rounds, and on until a writer was killed in the middle.
	for round := 0; round < 25 || left == 0 && round < 400; round++ {
		writer := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPutIsWholeAfterAKill$")
		writer.Env = append(os.Environ(), crashDir+"="+dir)
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		began, before := time.Now(), inode(t, dir)
		for inode(t, dir) == before && time.Since(began) < 10*time.Second {
			time.Sleep(time.Millisecond) // until the writer is at work
		}
		time.Sleep(rand.N(5 * time.Millisecond)) // the point at which it ends is any
		_ = writer.Process.Kill()
		_ = writer.Wait()
		text, err := os.ReadFile(filepath.Join(dir, "plugin"))
		if err != nil || string(text) != texts[0] && string(text) != texts[1] {
			t.Fatalf("the file has %d bytes, %v", len(text), err)
		}
		left += len(filesIn(t, dir)) - 1
	}
	if left == 0 {
		t.Error("no writer was killed in the middle: this test proves nothing")
	}
	put(t, dir, "plugin", "last", 0o755)
	if names := filesIn(t, dir); len(names) != 1 {
		t.Errorf("the directory holds %v", names)
	}
}

func inode(t *testing.T, dir string) uint64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, "plugin"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
