package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/vm/plan"
)

// boot runs the tests on one kernel. A guest that ends because a processor was stuck in its kernel is tried once more, with the
// packages that had not ended: emulated ones have been, for reasons unknown.
func (o options) boot(ctx context.Context, fs rootFS, dir string, to io.Writer) (*result, error) {
	logFile, err := os.Create(filepath.Join(o.logs, fs.kernel.name+".log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	fmt.Fprintf(to, "vm: %s (%s)\n", fs.kernel.name, fs.kernel.build)
	r := newResult(fs.kernel)
	guestErr := o.guest(ctx, fs, dir, to, r, logFile)
	if console := o.console(fs.kernel); ctx.Err() == nil && guestErr != nil && stuck(console) {
		kept := console + ".stuck"
		if err := os.Rename(console, kept); err != nil {
			return nil, err
		}
		fs.tests = r.left(fs.tests)
		fmt.Fprintf(to, "vm: %s: a processor was STUCK IN THE KERNEL: %s says where; %d packages run in a second guest\n", fs.kernel.name, kept, len(fs.tests))
		guestErr = o.guest(ctx, fs, dir, to, r, logFile)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if guestErr != nil {
		r.wrong = append(r.wrong, guestErr.Error())
	}
	if !r.green() {
		o.explain(to, fs.kernel, logFile)
	}
	return r, nil
}

func (o options) console(k installed) string { return filepath.Join(o.logs, k.name+".console") }

// stuck says whether a guest's console tells of a processor that was.
func stuck(console string) bool {
	said, err := os.ReadFile(console)
	return err == nil && bytes.Contains(said, []byte("soft lockup"))
}

// guest runs tests in one guest and adds what became of them to the result.
func (o options) guest(ctx context.Context, fs rootFS, dir string, to io.Writer, r *result, logFile io.Writer) error {
	initramfs := filepath.Join(dir, fs.kernel.name+".initramfs")
	if err := fs.write(ctx, initramfs); err != nil {
		return err
	}
	defer os.Remove(initramfs)
	g := guest{kernel: fs.kernel, initramfs: initramfs, memory: memory, limit: boot, console: o.console(fs.kernel)}
	for _, t := range fs.tests {
		g.limit += time.Duration(t.seconds+10) * time.Second
	}
	start := time.Now()
	used, err := g.run(ctx, func(e plan.Event) {
		r.add(e)
		o.print(to, logFile, fs.kernel.name, e)
	})
	fmt.Fprintf(to, "vm: %s took %.0f s and %.0f s of processor time: %d of %d tests passed\n",
		fs.kernel.name, time.Since(start).Seconds(), used.Seconds(), r.passed(), len(r.tests))
	return err
}

// print writes an event to the log, and as much of it to the terminal as is wanted there.
func (o options) print(to, log io.Writer, kernel string, e plan.Event) {
	switch {
	case e.Module != "":
		fmt.Fprintf(log, "module %s: %s\n", e.Module, e.Error)
	case e.Done:
		fmt.Fprintln(log, ended(e))
	case e.Run != "":
		fmt.Fprintln(log, e.Line)
		if o.show {
			fmt.Fprintln(to, e.Line)
		} else if m := verdict.FindStringSubmatch(e.Line); m != nil {
			fmt.Fprintf(to, "  %-4s %s %s.%s\n", kernel, m[1], e.Run, m[2])
		}
	}
}

// fine matches the lines of go test that say nothing of a failure.
var fine = regexp.MustCompile(`^(\s*--- PASS: .*|=== .*|PASS)$`)

// explain shows the ends of the logs of a kernel that failed.
func (o options) explain(to io.Writer, k installed, log *os.File) {
	files := []string{o.console(k)}
	if !o.show {
		files = append(files, log.Name())
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			fmt.Fprintln(to, "vm:", err)
			continue
		}
		content = bytes.ReplaceAll(content, []byte("\r"), nil)
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		lines = slices.DeleteFunc(lines, fine.MatchString)
		if omitted := len(lines) - 60; omitted > 0 {
			lines = append([]string{fmt.Sprintf("... %d lines", omitted)}, lines[omitted:]...)
		}
		fmt.Fprintf(to, "---- %s\n%s\n", name, strings.Join(lines, "\n"))
	}
}

// lock waits until no other run has a guest on this machine: two of them would only be slower, and run into their limits.
func lock(ctx context.Context, name string, to io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		fmt.Fprintf(to, "vm: waiting for another run with guests, which holds %s\n", name)
		// The kernel keeps the order of those who wait. The goroutine of a wait that is given up ends with the program.
		go func() { locked <- unix.Flock(int(file.Fd()), unix.LOCK_EX) }()
	} else {
		locked <- err
	}
	select {
	case err = <-locked:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), file.Close())
	}
	return func() { file.Close() }, nil
}
