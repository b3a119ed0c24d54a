package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nearpath/nearpath/internal/demo"
	"github.com/spf13/cobra"
)

func newDemo() *cobra.Command {
	cfg := demo.Config{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch nearpath work: two simulated nodes, an application, traffic, a killed agent",
		Long: `Demo builds a simulated VPC with two instances on this machine, runs an agent on each, deploys an application
and shows what happens to its traffic. It takes less than a minute, needs root, and leaves nothing behind.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			// The programs also run on the nodes, from other directories.
			var err error
			if cfg.Bin, err = filepath.Abs(cfg.Bin); err != nil {
				return err
			}
			if err := checkMachine(cfg.Bin); err != nil {
				return usageError{err}
			}
			if err := demo.Run(cmd.Context(), cfg); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cfg.Out, "demo: ok")
			return err
		},
	}
	cmd.Flags().StringVar(&cfg.Bin, "bin", executableDir(), "directory with the project's programs")
	cmd.Flags().BoolVar(&cfg.DualStack, "dual-stack", false, "give pods IPv6 addresses, too")
	cmd.Flags().BoolVar(&cfg.Keep, "keep", false, "leave everything up until Ctrl-C, and say how to look around")
	return cmd
}

// checkMachine names what the machine lacks.
func checkMachine(bin string) error {
	var missing []string
	for _, program := range []string{"nearpath", "nearpath-cni", "coredns", "podapp"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			missing = append(missing, fmt.Sprintf("%s is not in %s: run make build", program, bin))
		}
	}
	missing = append(missing, demo.Missing()...)
	if len(missing) > 0 {
		return fmt.Errorf("the demo cannot run here: %s", strings.Join(missing, "; "))
	}
	return nil
}
