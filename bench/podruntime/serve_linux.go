package podruntime

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // the floor is a bare link, beside plugins that do more
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/bench/remote"
)

// Serve does what is asked on in until that ends.
func Serve(in io.Reader, out io.Writer) error {
	return remote.Serve(in, out, remote.Verbs{
		verbMake:   remote.Verb(func(names []string) (any, error) { return nil, makeAll(names) }),
		verbRemove: remote.Verb(func(names []string) (any, error) { return nil, removeAll(names) }),
		verbRun:    remote.Verb(func(b Batch) (any, error) { return b.run() }),
	})
}

// run hands the calls to as many workers as may run at a time.
func (b Batch) run() (*Timings, error) {
	t := &Timings{Each: make([]time.Duration, len(b.Calls)), Outputs: make([]string, len(b.Calls))}
	errs := make([]error, len(b.Calls))
	var next atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for range min(b.AtATime, len(b.Calls)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(b.Calls); i = int(next.Add(1)) - 1 {
				start := time.Now()
				t.Outputs[i], errs[i] = b.Calls[i].run()
				t.Each[i] = time.Since(start)
			}
		})
	}
	workers.Wait()
	t.Wall = time.Since(began)
	return t, errors.Join(errs...)
}

func (c Call) run() (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(c.Program)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Env, strings.NewReader(c.Stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("execute %s: %w: %s%s", c.Program, err, stdout.Bytes(), stderr.Bytes())
	}
	if c.Link == nil {
		return stdout.String(), nil
	}
	if c.Link.NetNS == "" {
		return "", deleteLink(c.Link.Name)
	}
	return "", addVeth(c.Link.Name, c.Link.NetNS)
}

func addVeth(name, netns string) error {
	pod, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", netns, err)
	}
	defer unix.Close(pod)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(pod)
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link %s: %w", name, err)
	}
	return nil
}

func deleteLink(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkDel(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}
