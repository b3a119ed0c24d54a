package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nearpath/nearpath/internal/atomicfile"
	"github.com/spf13/cobra"
)

// conflist is the network configuration of the node. Runtimes take the first file of the directory by name, hence the
// number.
const (
	conflistName = "05-nearpath.conflist"
	conflist     = `{
  "cniVersion": "1.1.0",
  "name": "nearpath",
  "plugins": [
    {"type": "nearpath-cni"}
  ]
}
`
)

func newCNI() *cobra.Command {
	cmd := &cobra.Command{Use: "cni", Short: "Manage what the node's container runtime sees of nearpath"}
	var from, binDir, confDir string
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the CNI plugin, then the configuration that makes the runtime use it",
		Long: `Install copies nearpath-cni to the runtime's plugin directory and writes the network configuration.

Each file is replaced whole, and one that is right already is left alone. The configuration comes last: for the
runtime it is the node's "network ready" switch, so run this when the agent is ready.`,
		RunE: func(*cobra.Command, []string) error {
			plugin, err := os.ReadFile(filepath.Join(from, "nearpath-cni"))
			if err != nil {
				return usageError{fmt.Errorf("read the plugin: %w (--from names its directory)", err)}
			}
			if err := atomicfile.Write(filepath.Join(binDir, "nearpath-cni"), plugin, 0o755); err != nil {
				return err
			}
			return atomicfile.Write(filepath.Join(confDir, conflistName), []byte(conflist), 0o644)
		},
	}
	install.Flags().StringVar(&from, "from", executableDir(), "directory that holds nearpath-cni")
	install.Flags().StringVar(&binDir, "bin-dir", "/opt/cni/bin", "the runtime's plugin directory")
	install.Flags().StringVar(&confDir, "conf-dir", "/etc/cni/net.d", "the runtime's network configuration directory")
	cmd.AddCommand(install)
	return cmd
}

// executableDir is where this program is; its companions lie beside it.
func executableDir() string {
	self, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(self)
}
