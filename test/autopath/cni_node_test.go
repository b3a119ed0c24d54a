//go:build node

package autopath

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/nearpath/nearpath/test/netlab"
)

// onNode runs CNI plugins on the node instead of on the machine.
type onNode struct{ node *netlab.Node }

var _ invoke.Exec = onNode{}

func (e onNode) ExecPlugin(ctx context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	cmd := e.node.Command(ctx, plugin)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var refused types.Error
	if json.Unmarshal(stdout.Bytes(), &refused) == nil && refused.Msg != "" {
		return nil, &refused
	}
	return nil, fmt.Errorf("run %s: %w: %s", plugin, err, stderr.Bytes())
}

func (e onNode) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths) // the directories of a lab are the same on its nodes
}

func (e onNode) Decode(text []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(text)
}
