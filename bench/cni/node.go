package cni

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/bench/agentnode"
	"github.com/nearpath/nearpath/bench/podruntime"
)

// A node has an agent whose pool is warm and the part of a container runtime that the benchmark needs.
type node struct {
	*agentnode.Node
	runtime *podruntime.Runtime
}

// instanceType has room for 7 x 30 pods. The pool holds warm addresses at any time, of which released ones rest a
// second: long enough that every ADD gets another address than the one before, short enough that the pool never runs
// out and never grows.
const (
	instanceType = "ecs.sim.xlarge"
	warm         = 200
)

// The pool neither grows nor shrinks between its first filling and the end.
var config = fmt.Sprintf(`pool:
  minIdle: 2
  maxIdle: 210
  minTotal: %d
  cooldown: 1s
`, warm)

// manifests are the least of a cluster.
const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: default}
`

// startNode returns when the agent is ready and its pool is full. Close the node in any case.
func startNode(ctx context.Context, bin string) (n *node, err error) {
	n = &node{}
	n.Node, err = agentnode.Start(ctx, agentnode.Spec{
		Prefix: "nearpath-bench-cni", Bin: bin, InstanceType: instanceType, Config: config, Manifests: map[string]string{"node.yaml": manifests},
	})
	if err != nil {
		return n, err
	}
	if err := n.fillPool(ctx); err != nil {
		return n, fmt.Errorf("fill the pool: %w", err)
	}
	if err := n.startRuntime(ctx, bin); err != nil {
		return n, fmt.Errorf("start the runtime: %w", err)
	}
	return n, nil
}

// fillPool waits for the pool's addresses, and then for what the agent still has to do about them: ENIs are attached one
// by one, and each change makes it look at the node again.
func (n *node) fillPool(ctx context.Context) error {
	err := n.Await(ctx, func() string {
		var enis []struct {
			Addresses []string `json:"addresses"`
		}
		if err := n.API().Get(ctx, "/v1/enis", &enis); err != nil {
			return err.Error()
		}
		have := 0
		for _, e := range enis {
			have += len(e.Addresses)
		}
		if have < warm {
			return fmt.Sprintf("the pool has %d of %d addresses", have, warm)
		}
		return ""
	})
	if err != nil {
		return err
	}
	const quiet = time.Second
	calls, since := n.Calls(), time.Now()
	return n.Await(ctx, func() string {
		if now := n.Calls(); now != calls {
			calls, since = now, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Sprintf("the agent called the cloud less than %s ago", quiet)
		}
		return ""
	})
}

// startRuntime runs this program again, on the node.
func (n *node) startRuntime(ctx context.Context, bin string) error {
	cmd := n.Command(context.WithoutCancel(ctx), filepath.Join(bin, "bench"), "runtime")
	cmd.Stderr = os.Stderr
	var err error
	n.runtime, err = podruntime.Connect(cmd, func(cmd *exec.Cmd) error {
		_, err := n.Lab.Start(cmd)
		return err
	})
	return err
}

// Close removes everything, as far as it was made.
func (n *node) Close() error {
	var err error
	if n.runtime != nil {
		err = n.runtime.Close()
	}
	return errors.Join(err, n.Node.Close())
}
