//go:build node

package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnlyDirectory: on a host whose plugin directory cannot be written, the right plugin in it is enough, and another
// one is a plain error.
func TestReadOnlyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	writeFile(t, filepath.Join(dir, ".nearpath-cni.0123456789abcdef"), "left by a crash")
	d := openDir(t, dir)
	if err := d.replace("nearpath-cni", []byte("plugin"), pluginMode); err != nil {
		t.Fatal(err)
	}
	d.close()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if changed := put(t, dir, "nearpath-cni", "plugin", pluginMode); changed {
		t.Error("a file of a read-only directory was changed")
	}
	d = openDir(t, dir)
	defer d.close()
	if _, err := d.put("nearpath-cni", []byte("newer"), pluginMode); err == nil {
		t.Error("a newer plugin is installed in a read-only directory")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "nearpath-cni")); err != nil || string(text) != "plugin" {
		t.Errorf("the plugin is %q, %v", text, err)
	}
}
