package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/hostnet"
	"github.com/nearpath/nearpath/internal/takeover"
)

func newCNIUninstall() *cobra.Command {
	i := installation{}
	var config string
	var force bool
	var drain time.Duration
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take nearpath off this node: configuration, programs, rules and routes, and at last the plugin",
		Long: `Uninstall undoes on a node what nearpath did there. Drain the node and stop the agent first: an agent that runs would
put everything back, and pods that are left lose their network, which --force accepts.

The order is the reverse of installing: the runtime's configuration, so that no pod comes any more; Services, which are
kube-proxy's from then on, if it is there again; programs and maps in the kernel, when the connections that packets are
translated for are over or --drain has passed; rules and routes; the plugin, which the runtime needs for the deletion of
pods, last. ENIs stay attached and the address journal stays in the state directory. It can be repeated.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			c, err := i.configure(config)
			if err != nil {
				return err
			}
			return i.uninstall(cmd.Context(), force, nodeOf(c, drain, i.out))
		},
	}
	hostFlags(cmd, &i, &config)
	cmd.Flags().DurationVar(&drain, "drain", defaultDrain, "how long to wait for connections that packets are translated for")
	cmd.Flags().BoolVar(&force, "force", false, "also when pods are still wired")
	return cmd
}

// A nodeCleaner is what uninstall does besides files.
type nodeCleaner struct {
	lock     func() (release func(), err error) // fails while an agent runs
	pods     func() (int, error)
	handBack func(context.Context) error // lets others serve Services, and waits for connections
	programs func() error
	network  func(context.Context) error
}

func nodeOf(c config, drain time.Duration, out io.Writer) nodeCleaner {
	return nodeCleaner{
		lock: func() (func(), error) {
			f, err := lockNode(lockPath(c))
			if err != nil {
				return nil, fmt.Errorf("an agent that runs would put everything back, stop it first: %w", err)
			}
			return func() { _ = f.Close() }, nil
		},
		pods: func() (int, error) {
			wired, err := cni.Wired("", cni.RecordsDir(c.Socket))
			return len(wired), err
		},
		handBack: func(ctx context.Context) error { return handBack(ctx, c.PinDir, drain, out) },
		programs: func() error { return bpf.Remove(c.PinDir) },
		network: func(ctx context.Context) error {
			err := errors.Join(hostnet.Remove(ctx, c.DNS.addresses()), takeover.RemoveKeeper())
			if root := c.Network.HostRoot; root != "" {
				err = errors.Join(err, hostnet.RemoveDropIns(root))
			}
			return err
		},
	}
}

func lockPath(c config) string { return filepath.Join(filepath.Dir(c.Socket), "agent.lock") }

// uninstall goes on after a failure, so that as much as possible is gone, but keeps the plugin until all else is: what is
// left can then still be deleted by the runtime.
func (i installation) uninstall(ctx context.Context, force bool, node nodeCleaner) error {
	release, err := node.lock()
	if err != nil {
		return usageError{err}
	}
	defer release()
	pods, err := node.pods()
	if err != nil {
		return fmt.Errorf("look for pods: %w", err)
	}
	if pods > 0 && !force {
		return usageError{fmt.Errorf("%d pods of this node are still wired: drain it first, or say --force", pods)}
	}
	err = errors.Join(i.removeConf(ctx), node.handBack(ctx))
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"programs and maps in the kernel", node.programs},
		{"rules, routes and links", func() error { return node.network(ctx) }},
	} {
		if stepErr := step.do(); stepErr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", step.what, stepErr))
			continue
		}
		fmt.Fprintln(i.out, "removed", step.what)
	}
	if err != nil {
		return fmt.Errorf("%w\nthe plugin stays until the rest is gone: run this again", err)
	}
	return i.remove(ctx, i.binDir, cni.PluginType)
}

// removeConf leaves a file alone that has our name and is of another network.
func (i installation) removeConf(ctx context.Context) error {
	if i.confDir == "" {
		return nil
	}
	path := filepath.Join(i.confDir, i.confName)
	if ours, there := isOurConf(path); there && !ours {
		return fmt.Errorf("%s does not configure %s: it is left alone; --config says which file is ours", path, cni.PluginType)
	}
	return i.remove(ctx, i.confDir, i.confName)
}

func (i installation) remove(ctx context.Context, dir, name string) error {
	if _, err := os.Stat(dir); err != nil {
		return ifThere(err)
	}
	d, err := openHostDir(ctx, dir)
	if err != nil {
		return err
	}
	defer d.close()
	had, err := d.remove(name)
	if err == nil && had {
		fmt.Fprintln(i.out, "removed", filepath.Join(dir, name))
	}
	return err
}
