package main

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// An archive is a cpio archive in the "newc" format, the one that the kernel unpacks as its first root
// (Documentation/driver-api/early-userspace/buffer-format.rst). Directories that a path needs are made on the way.
type archive struct {
	to    *bufio.Writer
	inode int
	made  map[string]bool
	err   error // of the first write that failed
}

// The kinds of files, as in st_mode.
const (
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

func newArchive(to io.Writer) *archive {
	return &archive{to: bufio.NewWriterSize(to, 1<<20), made: map[string]bool{"/": true}}
}

func (a *archive) dir(name string) {
	if name = path.Clean(name); a.made[name] {
		return
	}
	a.made[name] = true
	a.dir(path.Dir(name))
	a.entry(name, modeDir|0o755, 0, 0, nil)
}

func (a *archive) file(name string, permissions int, content []byte) {
	a.dir(path.Dir(name))
	a.entry(name, modeFile|permissions, 0, 0, content)
}

func (a *archive) symlink(name, target string) {
	a.dir(path.Dir(name))
	a.entry(name, modeSymlink|0o777, 0, 0, []byte(target))
}

func (a *archive) char(name string, major, minor int) {
	a.dir(path.Dir(name))
	a.entry(name, modeChar|0o600, major, minor, nil)
}

// close ends the archive and returns what went wrong with it.
func (a *archive) close() error {
	a.entry("/TRAILER!!!", 0, 0, 0, nil)
	if err := a.to.Flush(); a.err == nil {
		a.err = err
	}
	return a.err
}

// entry writes the header of 13 numbers, the name and the content, each padded to 4 bytes.
func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	name = strings.TrimPrefix(name, "/") + "\x00"
	a.inode++
	header := []byte("070701")
	for _, n := range []int{a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name), 0} {
		header = fmt.Appendf(header, "%08X", n)
	}
	header = append(header, name...)
	a.write(header)
	a.pad(len(header))
	a.write(content)
	a.pad(len(content))
}

func (a *archive) pad(n int) { a.write(make([]byte, -n&3)) }

func (a *archive) write(b []byte) {
	if _, err := a.to.Write(b); a.err == nil {
		a.err = err
	}
}
