package netlab

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// groupEnd bounds the wait for the rest of a killed process group.
const groupEnd = 10 * time.Second

// A Process is a program that belongs to a lab.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// PID is the process id, in the process id namespace of the lab's owner.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the program ended, as exec.Cmd.Wait tells it. It waits for the end.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends sig to the program alone.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill ends the program and its process group at once and waits until all of them have ended, so that what they held,
// such as a port, is free.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	// The group's leader is not waited for yet, or has only just been: its id names this group, which a reused
	// process id cannot while members of the group live.
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	_ = p.cmd.Process.Kill()
	<-p.done
	// A program behind nsenter is not this process's to wait for.
	for deadline := time.Now().Add(groupEnd); groupRuns(p.PID()) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}

// groupRuns tells whether a process group has members other than zombies, which somebody else has to reap.
func groupRuns(pgid int) bool {
	if syscall.Kill(-pgid, 0) != nil {
		return false
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		state, group := parseStat(string(text))
		if group == pgid && (state != "Z" && state != "X" || hasThreads(path)) {
			return true
		}
	}
	return false
}

// hasThreads tells of a zombie whose first thread has ended before others, which still hold what the program held.
func hasThreads(stat string) bool {
	threads, err := os.ReadDir(filepath.Join(filepath.Dir(stat), "task"))
	return err == nil && len(threads) > 1
}

// parseStat reads state and process group from proc_pid_stat(5). The command before them, in parentheses, may itself
// have parentheses and spaces.
func parseStat(text string) (state string, group int) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 3 {
		return "", 0
	}
	group, _ = strconv.Atoi(fields[2])
	return fields[0], group
}

// A launcher starts processes that die with this one. The kernel sends a parent death signal when the *thread* that
// made the process ends, and the Go runtime ends threads at will, so one locked thread makes all of them.
type launcher struct {
	jobs chan func()
	end  sync.WaitGroup
}

func newLauncher() *launcher {
	l := &launcher{jobs: make(chan func())}
	l.end.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range l.jobs {
			job()
		}
	})
	return l
}

// start starts cmd in a process group of its own.
func (l *launcher) start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	l.jobs <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// close ends the thread. No process may be left.
func (l *launcher) close() {
	close(l.jobs)
	l.end.Wait()
}

// endWithGroup makes cancelling cmd's context kill its whole process group: nsenter forks, and a signal to it alone
// would leave the program inside running.
func endWithGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
