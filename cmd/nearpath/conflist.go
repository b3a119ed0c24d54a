package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/strict"
)

// cniConfig says where the container runtime finds the network's configuration.
type cniConfig struct {
	// ConfDir is the runtime's directory of network configurations: the agent writes its own there once it can serve, and
	// watches it. Empty: somebody else does, such as "nearpath cni install".
	ConfDir string `json:"confDir"`
	// ConfName is the file's name. Runtimes take the first of the directory by name, hence the number.
	ConfName string `json:"confName"`
}

func (c cniConfig) check() []strict.Rule {
	plain := filepath.Base(c.ConfName) == c.ConfName && !strings.HasPrefix(c.ConfName, ".")
	return []strict.Rule{
		{OK: c.ConfDir == "" || filepath.IsAbs(c.ConfDir), Path: "cni.confDir", Value: c.ConfDir, Fix: "use an absolute path"},
		{OK: plain && filepath.Ext(c.ConfName) == ".conflist", Path: "cni.confName", Value: c.ConfName, Fix: "use a file name that ends in .conflist"},
	}
}

const defaultConfName = "05-nearpath.conflist"

// networkName is the "name" of the network's configuration. It is a part of every attachment's key, so it stays.
const networkName = "nearpath"

// cniVersions are those of the CNI specification that the plugin offers. A runtime that does not know of several takes
// the first, which old ones know too.
var cniVersions = []string{"1.0.0", "1.1.0"}

// capabilities are what the runtime is asked to tell of each pod.
var capabilities = map[string]bool{
	"portMappings": true, "bandwidth": true, "dns": true, "io.kubernetes.cri.pod-annotations": true,
}

// A conflist is a network configuration list (CNI specification 1.1.0, section 1).
type conflist struct {
	CNIVersion  string         `json:"cniVersion"`
	CNIVersions []string       `json:"cniVersions"`
	Name        string         `json:"name"`
	Plugins     []conflistItem `json:"plugins"`
}

type conflistItem struct {
	Type         string          `json:"type"`
	Socket       string          `json:"socket,omitempty"`
	Capabilities map[string]bool `json:"capabilities"`
}

// conflistOf is the configuration of the network whose agent listens on socket.
func conflistOf(socket string) []byte {
	item := conflistItem{Type: cni.PluginType, Capabilities: capabilities}
	if socket != agentapi.DefaultSocket {
		item.Socket = socket
	}
	text, err := json.MarshalIndent(conflist{cniVersions[0], cniVersions, networkName, []conflistItem{item}}, "", "  ")
	if err != nil {
		panic(err) // it is made of strings
	}
	return append(text, '\n')
}

// isConf says whether runtimes read files of that name.
func isConf(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// before lists the configurations that a runtime takes before the one called name: those of others whose names come first.
// Some runtimes pass over what they cannot read and some fail on it, so an unreadable one is listed, too. A plugin that
// calls the next network's by itself (Multus) belongs there and is not.
func before(dir, name string) (shadows []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ifThere(err)
	}
	for _, e := range entries { // sorted by name
		if e.Name() >= name {
			break
		}
		if e.IsDir() || !isConf(e.Name()) {
			continue
		}
		types, err := pluginTypes(filepath.Join(dir, e.Name()))
		if err != nil || !slices.ContainsFunc(types, isMeta) {
			shadows = append(shadows, e.Name())
		}
	}
	return shadows, nil
}

func isMeta(plugin string) bool { return plugin == "multus" || plugin == "multus-shim" }

// pluginTypes are the plugins that a configuration calls.
func pluginTypes(path string) (types []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(path) != ".conflist" {
		one, err := libcni.NetworkPluginConfFromBytes(text)
		if err != nil {
			return nil, err
		}
		return []string{one.Network.Type}, nil
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types, nil
}

// shadowed names what comes before our configuration, nil if nothing does.
func shadowed(dir, name string) error {
	shadows, err := before(dir, name)
	if err != nil {
		return fmt.Errorf("look for other networks: %w", err)
	}
	if len(shadows) == 0 {
		return nil
	}
	return fmt.Errorf("%s in %s comes before %s: the runtime uses the first by name, so pods do not get this network; remove it, or choose a lower name",
		strings.Join(shadows, ", "), dir, name)
}

// isOurConf says whether the file is there and configures our plugin.
func isOurConf(path string) (ours, there bool) {
	if _, err := os.Lstat(path); err != nil {
		return false, !os.IsNotExist(err)
	}
	types, err := pluginTypes(path)
	return err == nil && slices.Contains(types, cni.PluginType), true
}

const (
	confMode   fs.FileMode = 0o644
	pluginMode fs.FileMode = 0o755
)
