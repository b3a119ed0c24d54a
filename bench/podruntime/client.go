package podruntime

import (
	"context"
	"fmt"
	"os/exec"

	"github.com/nearpath/nearpath/bench/remote"
)

// A Runtime is the benchmark's end of the pipe. Its methods are for one goroutine.
type Runtime struct{ process *remote.Process }

// Connect starts talking to the process that start runs cmd as, which must end in a call of Serve. Close ends it.
func Connect(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Runtime, error) {
	p, err := remote.Connect("the runtime on the node", cmd, start)
	if err != nil {
		return nil, err
	}
	return &Runtime{p}, nil
}

// Close lets the process end.
func (r *Runtime) Close() error { return r.process.Close() }

// MakeNetNS makes network namespaces.
func (r *Runtime) MakeNetNS(ctx context.Context, names []string) error {
	return r.process.Ask(ctx, verbMake, names, nil)
}

// RemoveNetNS removes network namespaces and returns when the kernel has taken them apart.
func (r *Runtime) RemoveNetNS(ctx context.Context, names []string) error {
	return r.process.Ask(ctx, verbRemove, names, nil)
}

// Run makes the calls of a batch. Any that fails makes the batch fail.
func (r *Runtime) Run(ctx context.Context, b Batch) (t Timings, err error) {
	if err := r.process.Ask(ctx, verbRun, b, &t); err != nil {
		return Timings{}, err
	}
	if len(t.Each) != len(b.Calls) {
		return Timings{}, fmt.Errorf("runtime on the node timed %d calls, want %d", len(t.Each), len(b.Calls))
	}
	return t, nil
}
