// Nearpath is the node agent of nearpath and its operator's tool in one binary. This package is the only one that
// knows all others: it reads the configuration, makes the parts, introduces them to each other and runs them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set at link time.
var version = "unknown"

// Exit statuses: 0 ok, 1 failure, 2 wrong use or a machine that lacks something.
const (
	exitFailure = 1
	exitUsage   = 2
)

// A usageError is one that the caller can mend by calling differently or on another machine.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // the second signal ends a process that does not get done with the first
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(root.ErrOrStderr(), "error:", err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "nearpath",
		Short:         "Pod networking, Services and DNS for Kubernetes on Alibaba Cloud, on the pod's own node",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newAgent(), newExternalDNS(), newZone(), newCNI(), newGet(), newExplain(), newDNS(), newCheck(), newSim(), newDemo())
	checkArguments(root)
	return root
}

// checkArguments makes every wrong argument a usageError, also below commands that only group others. Commands that take
// arguments check them by themselves.
func checkArguments(cmd *cobra.Command) {
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if cmd.Args == nil {
		cmd.Args = noArguments
	}
	for _, child := range cmd.Commands() {
		checkArguments(child)
	}
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s: %q is not one of its commands or flags: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())}
	}
	return nil
}

// oneArgument is for commands that take exactly one, called what.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s: %d arguments: give one, the %s", cmd.CommandPath(), len(args), what)}
		}
		return nil
	}
}
