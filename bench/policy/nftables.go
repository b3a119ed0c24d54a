package policy

import (
	"context"
	"fmt"
	"strings"

	"github.com/nearpath/nearpath/bench/links"
	"github.com/nearpath/nearpath/test/netlab"
)

// An nftSite has its node's nftables enforce policies, with the rules that a policy engine with sets writes.
type nftSite struct{ node *netlab.Node }

func (n nftSite) load(ctx context.Context, s scene) error {
	cmd := n.node.NetNS().Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(s.rules())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %.500s", err, out)
	}
	return nil
}

func (n nftSite) forget(context.Context) error { return n.node.NetNS().Do(links.ForgetConnections) }
