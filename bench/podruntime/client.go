package podruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// A Runtime is the benchmark's end of the pipe. Its methods are for one goroutine.
type Runtime struct {
	in      io.WriteCloser
	encode  *json.Encoder
	answers <-chan answer
}

type answer struct {
	response
	err error
}

// Connect starts talking to the process that start runs cmd as, which must end in a call of Serve. Close ends it.
func Connect(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Runtime, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(cmd); err != nil {
		return nil, err
	}
	return &Runtime{in: in, encode: json.NewEncoder(in), answers: receive(out)}, nil
}

// receive reads until the process has ended, so that waiting for an answer can also end with a context.
func receive(out io.Reader) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		defer close(answers)
		decode := json.NewDecoder(out)
		for {
			var a answer
			if a.err = decode.Decode(&a.response); errors.Is(a.err, io.EOF) {
				return
			}
			answers <- a
			if a.err != nil {
				return
			}
		}
	}()
	return answers
}

// Close lets the process end.
func (r *Runtime) Close() error { return r.in.Close() }

// MakeNetNS makes network namespaces.
func (r *Runtime) MakeNetNS(ctx context.Context, names []string) error {
	_, err := r.ask(ctx, request{Make: names})
	return err
}

// RemoveNetNS removes network namespaces and returns when the kernel has taken them apart.
func (r *Runtime) RemoveNetNS(ctx context.Context, names []string) error {
	_, err := r.ask(ctx, request{Remove: names})
	return err
}

// Run makes the calls of a batch. Any that fails makes the batch fail.
func (r *Runtime) Run(ctx context.Context, b Batch) (Timings, error) {
	a, err := r.ask(ctx, request{Run: &b})
	if err != nil {
		return Timings{}, err
	}
	if a.Timings == nil || len(a.Timings.Each) != len(b.Calls) {
		return Timings{}, fmt.Errorf("runtime on the node timed the wrong number of calls, want %d", len(b.Calls))
	}
	return *a.Timings, nil
}

func (r *Runtime) ask(ctx context.Context, q request) (response, error) {
	if err := r.encode.Encode(q); err != nil {
		return response{}, fmt.Errorf("ask the runtime on the node: %w", err)
	}
	select {
	case a, ok := <-r.answers:
		switch {
		case !ok:
			return response{}, errors.New("the runtime on the node has ended")
		case a.err != nil:
			return response{}, fmt.Errorf("read the answer of the runtime on the node: %w", a.err)
		case a.Error != "":
			return response{}, errors.New(a.Error)
		}
		return a.response, nil
	case <-ctx.Done():
		return response{}, ctx.Err()
	}
}
