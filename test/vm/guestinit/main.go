// Guestinit is process 1 of a guest of test/vm: it prepares the kernel, runs what the plan says and powers off.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/vm/plan"
)

func main() {
	// A process 1 that exits panics the kernel: whatever happens, the guest goes down in order.
	defer powerOff()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit:", err)
	}
}

func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit: power off:", err)
	}
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	port, err := openPort(plan.Port)
	if err != nil {
		return err
	}
	events := &events{to: json.NewEncoder(port)}
	content, err := os.ReadFile(plan.File)
	if err != nil {
		return err
	}
	var p plan.Plan
	if err := json.Unmarshal(content, &p); err != nil {
		return fmt.Errorf("read %s: %w", plan.File, err)
	}
	for _, m := range p.Modules {
		if err := load(m.Path); err != nil {
			events.say(plan.Event{Module: m.Name, Error: err.Error()})
		}
	}
	for _, r := range p.Runs {
		events.say(events.perform(r))
	}
	events.say(plan.Event{Down: true})
	return drain(port)
}

// mountAll makes the file systems that programs on a Linux machine find.
func mountAll() error {
	for _, m := range []struct{ kind, on, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
		{"bpf", "/sys/fs/bpf", ""},
		{"tracefs", "/sys/kernel/tracing", ""},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/var", "mode=755"},
	} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		// The kernel may have mounted /dev already.
		if err := unix.Mount(m.kind, m.on, m.kind, 0, m.options); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.on, err)
		}
	}
	for _, dir := range []string{"/var/lib", "/var/run", "/var/tmp", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil && !os.IsExist(err) {
		return err
	}
	return setLoopbackUp()
}

func setLoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// openPort opens a serial port that changes nothing of what is written to it.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	state, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("settings of %s: %w", path, err)
	}
	state.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, state); err != nil {
		return nil, fmt.Errorf("settings of %s: %w", path, err)
	}
	return port, nil
}

// drain returns when the port has sent everything.
func drain(port *os.File) error {
	if err := unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1); err != nil {
		return fmt.Errorf("drain %s: %w", port.Name(), err)
	}
	return nil
}

func load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// Events are written whole, whoever writes them.
type events struct {
	mu sync.Mutex
	to *json.Encoder
}

func (e *events) say(event plan.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.to.Encode(event); err != nil {
		fmt.Fprintln(os.Stderr, "guestinit: report:", err)
	}
}

// perform runs a program, passes its output on and returns how it ended.
func (e *events) perform(r plan.Run) plan.Event {
	done := plan.Event{Run: r.Name, Done: true, Exit: -1}
	read, write, err := os.Pipe()
	if err != nil {
		done.Error = err.Error()
		return done
	}
	defer read.Close()
	cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.Dir, write, write
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "LANG=C.UTF-8"}
	cmd.Env = append(cmd.Env, r.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	write.Close()
	if err != nil {
		done.Error = err.Error()
		return done
	}
	timer := time.AfterFunc(time.Duration(r.Seconds)*time.Second, func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL) //nolint:errcheck // it may have ended by now
	})
	copied := make(chan struct{})
	go func() { e.copy(r.Name, read); close(copied) }()
	err = cmd.Wait()
	stopped := timer.Stop()
	// What the program left behind may hold the pipe open for ever.
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL) //nolint:errcheck // usually nothing is left
	select {
	case <-copied:
	case <-time.After(time.Second):
		done.Error = "a process that it started is still there; "
	}
	done.Exit = cmd.ProcessState.ExitCode()
	switch {
	case !stopped:
		done.Error += fmt.Sprintf("killed after %d s", r.Seconds)
	case err != nil && done.Exit < 0:
		done.Error += err.Error()
	}
	reap()
	return done
}

// copy passes lines on; of one that is longer than a scanner takes it passes on the pieces.
func (e *events) copy(name string, from io.Reader) {
	lines := bufio.NewReaderSize(from, 64<<10)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		e.say(plan.Event{Run: name, Line: string(line)})
	}
}

// reap collects processes that were left to process 1.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
			return
		}
	}
}
