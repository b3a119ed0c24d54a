package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "plugin")
	for _, step := range []struct {
		data string
		perm os.FileMode
	}{{"one", 0o755}, {"two, longer", 0o755}, {"two, longer", 0o600}} {
		if err := Write(path, []byte(step.data), step.perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != step.data {
			t.Fatalf("the file holds %q, %v, want %q", got, err, step.data)
		}
		if info, _ := os.Stat(path); info.Mode() != step.perm {
			t.Errorf("the file's mode is %v, want %v", info.Mode(), step.perm)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("the directory holds %v, %v, want the one file", left, err)
	}
}

// TestWriteReplaces holds the old file open, as an exec of it would: it keeps its content.
func TestWriteReplaces(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := Write(path, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := Write(path, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := old.Read(b); err != nil || string(b) != "old" {
		t.Errorf("the old file reads %q, %v", b, err)
	}
}

func TestWriteLeavesTheSameAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plugin")
	if err := Write(path, []byte("same"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	if err := Write(path, []byte("same"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("an equal file was replaced")
	}
}
