package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/test/vm/plan"
)

// A guest is one run of QEMU. KVM inside a virtual machine hangs too often to be relied on; QEMU's own translation of
// the code runs everywhere, 5 to 8 times slower than the machine.
type guest struct {
	kernel    installed
	initramfs string
	console   string // file for what the kernel prints
	memory    int    // MiB
	limit     time.Duration
}

// run starts the guest, passes on its events and returns when it is gone, with the processor time that it took. An error says that the guest did not do all
// it had to do; what its tests said is in the events.
func (g guest) run(ctx context.Context, on func(plan.Event)) (used time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.limit, fmt.Errorf("the guest took longer than %v", g.limit))
	defer cancel()
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer read.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(g.memory),
		"-chardev", "file,id=console,path="+g.console, "-serial", "chardev:console",
		"-chardev", "file,id=events,path=/dev/fd/3", "-serial", "chardev:events",
		"-kernel", g.kernel.vmlinuz, "-initrd", g.initramfs,
		// A processor that is stuck in the kernel for a minute ends the guest, and every processor says where it is.
		"-append", "console=ttyS0 panic=-1 quiet loglevel=5 watchdog_thresh=30 softlockup_panic=1 softlockup_all_cpu_backtrace=1 random.trust_cpu=on",
	)
	cmd.ExtraFiles = []*os.File{write}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// A guest must not outlive this program, however it ends. The kernel looks at the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err = cmd.Start()
	write.Close()
	if err != nil {
		return 0, err
	}
	down, readErr := follow(read, on)
	err = cmd.Wait()
	used = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	switch {
	case ctx.Err() != nil:
		return used, context.Cause(ctx)
	case err != nil:
		return used, fmt.Errorf("qemu: %w", err)
	case !down:
		return used, errors.Join(errors.New("the guest went down before it had run everything"), readErr)
	}
	return used, nil
}

// follow passes events on until the guest is gone, and says whether it had reached its end.
func follow(from io.Reader, on func(plan.Event)) (down bool, err error) {
	events := json.NewDecoder(from)
	for {
		var e plan.Event
		if err := events.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			// QEMU must not wait for somebody who reads.
			_, copyErr := io.Copy(io.Discard, from)
			return down, errors.Join(err, copyErr)
		}
		down = down || e.Down
		on(e)
	}
}
