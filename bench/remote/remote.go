// Package remote lets a benchmark ask processes that live elsewhere, in a namespace or a cgroup of their own, to do things
// and to time them there: entering takes longer than most of what is measured. One JSON document a request and an answer,
// over the process's standard input and output.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// A Process is one of those, as the benchmark sees it. Its methods are for one goroutine at a time.
type Process struct {
	name    string
	in      io.WriteCloser
	encode  *json.Encoder
	answers <-chan answer
}

type request struct {
	Verb     string          `json:"verb"`
	Argument json.RawMessage `json:"argument,omitempty"`
}

type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	err    error
}

// Connect starts talking to the process that start runs cmd as, which must end in a call of Serve. Errors call it by its
// name. Close ends it.
func Connect(name string, cmd *exec.Cmd, start func(*exec.Cmd) error) (*Process, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &Process{name: name, in: in, encode: json.NewEncoder(in), answers: receive(out)}, nil
}

// receive reads until the process has ended, so that waiting for an answer can also end with a context.
func receive(out io.Reader) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		defer close(answers)
		decode := json.NewDecoder(out)
		for {
			var a answer
			if a.err = decode.Decode(&a); errors.Is(a.err, io.EOF) {
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
func (p *Process) Close() error { return p.in.Close() }

// Ask has a verb done and decodes its result into result, unless that is nil. After an error of ctx the process is not to
// be asked again: its answer is still to come.
func (p *Process) Ask(ctx context.Context, verb string, argument, result any) error {
	text, err := json.Marshal(argument)
	if err != nil {
		return fmt.Errorf("ask %s to %s: %w", p.name, verb, err)
	}
	if err := p.encode.Encode(request{verb, text}); err != nil {
		return fmt.Errorf("ask %s to %s: %w", p.name, verb, err)
	}
	select {
	case a, ok := <-p.answers:
		switch {
		case !ok:
			return fmt.Errorf("%s ended when asked to %s", p.name, verb)
		case a.err != nil:
			return fmt.Errorf("read the answer of %s: %w", p.name, a.err)
		case a.Error != "":
			return fmt.Errorf("%s: %s: %s", p.name, verb, a.Error)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Verbs are what a process can be asked to do.
type Verbs map[string]func(argument json.RawMessage) (result any, err error)

// Verb makes one of a function of its decoded argument.
func Verb[A any](do func(A) (any, error)) func(json.RawMessage) (any, error) {
	return func(text json.RawMessage) (any, error) {
		var argument A
		if err := json.Unmarshal(text, &argument); err != nil {
			return nil, fmt.Errorf("decode the argument: %w", err)
		}
		return do(argument)
	}
}

// Serve does what is asked on in until that ends. A verb that fails is answered with its error.
func Serve(in io.Reader, out io.Writer, verbs Verbs) error {
	decode, encode := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q request
		if err := decode.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		if err := encode.Encode(verbs.answer(q)); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func (v Verbs) answer(q request) answer {
	do, ok := v[q.Verb]
	if !ok {
		return answer{Error: "no such verb"}
	}
	result, err := do(q.Argument)
	if err == nil {
		var text json.RawMessage
		if text, err = json.Marshal(result); err == nil {
			return answer{Result: text}
		}
	}
	return answer{Error: err.Error()}
}
