package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/spf13/cobra"
)

func newCNI() *cobra.Command {
	cmd := &cobra.Command{Use: "cni", Short: "Manage what the node's container runtime sees of nearpath"}
	cmd.AddCommand(newCNIInstall(), newCNIUninstall())
	return cmd
}

// An installation says where the runtime's files are.
type installation struct {
	from     string // directory of nearpath-cni
	binDir   string
	confDir  string // empty: the agent, or nobody, writes the configuration
	confName string
	socket   string
	wait     time.Duration
	out      io.Writer
}

// hostFlags are those that install and uninstall share.
func hostFlags(cmd *cobra.Command, i *installation, config *string) {
	cmd.Flags().StringVar(&i.binDir, "bin-dir", "/opt/cni/bin", "the runtime's plugin directory")
	cmd.Flags().StringVar(&i.confDir, "conf-dir", "/etc/cni/net.d", "the runtime's network configuration directory; empty: leave it alone")
	cmd.Flags().StringVar(&i.socket, "socket", "", "the agent's socket; empty: that of --config")
	cmd.Flags().StringVar(config, "config", "", "the agent's configuration file (YAML), for its socket and cni.confName")
}

// configure takes from the agent's configuration what the flags do not say.
func (i *installation) configure(path string) (config, error) {
	c, err := readConfig(path)
	if err != nil {
		return c, usageError{err}
	}
	c.Socket = cmp.Or(i.socket, c.Socket)
	i.confName, i.socket = c.CNI.ConfName, c.Socket
	return c, nil
}

func newCNIInstall() *cobra.Command {
	i := installation{}
	var config string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the CNI plugin, then the configuration that makes the runtime use it",
		Long: `Install copies nearpath-cni to the runtime's plugin directory and then, once the agent says that it can add pods,
writes the network configuration.

Each file is replaced whole, and one that is right already is left alone, also in a directory that cannot be written.
The configuration comes last: for the runtime it is the node's "network ready" switch. One that is there stays,
whatever the agent says. The exit status is 1 when the agent is not ready in time, and when a configuration of
another network comes first by name.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out = cmd.OutOrStdout()
			if _, err := i.configure(config); err != nil {
				return err
			}
			return i.install(cmd.Context())
		},
	}
	hostFlags(cmd, &i, &config)
	cmd.Flags().StringVar(&i.from, "from", executableDir(), "directory that holds nearpath-cni")
	cmd.Flags().DurationVar(&i.wait, "wait", 0, "how long to wait for the agent, such as 2m")
	return cmd
}

// install puts the plugin before the configuration: a runtime may call it as soon as that appears.
func (i installation) install(ctx context.Context) error {
	plugin, err := os.ReadFile(filepath.Join(i.from, cni.PluginType))
	if err != nil {
		return usageError{fmt.Errorf("read the plugin: %w (--from names its directory)", err)}
	}
	if err := i.put(ctx, i.binDir, cni.PluginType, plugin, pluginMode); err != nil {
		return err
	}
	if i.confDir == "" {
		return nil
	}
	if err := i.awaitAgent(ctx); err != nil {
		return fmt.Errorf("the network configuration is not written: %w", err)
	}
	if err := i.put(ctx, i.confDir, i.confName, conflistOf(i.socket), confMode); err != nil {
		return err
	}
	return shadowed(i.confDir, i.confName)
}

func (i installation) put(ctx context.Context, dir, name string, data []byte, perm os.FileMode) error {
	d, err := openHostDir(ctx, dir)
	if err != nil {
		return err
	}
	defer d.close()
	changed, err := d.put(name, data, perm)
	if err == nil && changed {
		fmt.Fprintln(i.out, "installed", filepath.Join(dir, name))
	}
	return err
}

// statusPoll is how often the agent is asked.
const statusPoll = 200 * time.Millisecond

// awaitAgent returns when a pod could be added, asking as the runtime would.
func (i installation) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.wait+statusTimeout)
	defer cancel()
	enough := time.After(i.wait)
	for {
		err := askStatus(ctx, i.socket)
		if err == nil {
			return nil
		}
		select {
		case <-enough:
			return fmt.Errorf("the agent cannot add pods yet: %w (--wait gives it time)", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusPoll):
		}
	}
}

// statusTimeout bounds one question.
const statusTimeout = 5 * time.Second

// askStatus is the runtime's STATUS, without the plugin between.
func askStatus(ctx context.Context, socket string) error {
	config, err := json.Marshal(map[string]any{"cniVersion": cniVersions[len(cniVersions)-1], "name": networkName, "type": cni.PluginType})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answer, err := agentapi.NewClient(socket).CNI(ctx, agentapi.CNIRequest{Command: "STATUS", Config: config})
	if err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

// executableDir is where this program is; its companions lie beside it.
func executableDir() string {
	self, err := os.Executable()
	if err != nil {
		return "."
	}
	return filepath.Dir(self)
}
