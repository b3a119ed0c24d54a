package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// A service is a program of the cluster that runs until it is killed, and its log.
type service struct {
	name    string
	log     string
	process *netlab.Process
}

// launch starts cmd with its output appended to the file at log.
func (c *Cluster) launch(name, log string, cmd *exec.Cmd) (service, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return service{}, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "PATH="+c.binDir()+":"+os.Getenv("PATH"))
	p, err := c.lab.Start(cmd)
	if err != nil {
		return service{}, err
	}
	return service{name: name, log: log, process: p}, nil
}

// await waits until ready returns nil. It gives up when the service ends, and says then what the log ends with.
func (s service) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.process.Done():
			return fmt.Errorf("wait for %s: it ended (%w): %s", s.name, s.process.Err(), logTail(s.log, 5))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %s", s.name, err, logTail(s.log, 5))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
