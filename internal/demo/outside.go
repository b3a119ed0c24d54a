package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// Where clients outside the nodes reach the application: the Service web by a port of every node, the pod stock-0 by a
// port of its own node. Both are in app/shop.yaml.
const (
	webNodePort   = 30080
	stockHostPort = 8088
)

// callFromOutside is a client on a machine of the VPC that is no node. By each node's address it gets to a pod of either,
// and one that is of the same node sees the client's address where the Service asks for that, as host ports do.
func (d *demo) callFromOutside(ctx context.Context) error {
	client, err := d.cloud.Machine(ctx, "client")
	if err != nil {
		return err
	}
	d.client = client
	for _, n := range d.nodes {
		answered := map[string]string{}
		for len(answered) < len(d.nodes) {
			a, err := fetch(ctx, client.NetNS, netip.AddrPortFrom(n.addr, webNodePort))
			if err != nil {
				return fmt.Errorf("ask %s for its node port: %w", n.name, err)
			}
			answered[a.Node] = a.Pod
		}
		d.detail("%s asks %s:%d (NodePort of web), answered by %s and %s", client.Addr, n.addr, webNodePort,
			answered[d.nodes[0].name], answered[d.nodes[1].name])
	}
	stock := d.find("stock", 0)
	a, err := fetch(ctx, client.NetNS, netip.AddrPortFrom(stock.node.addr, stockHostPort))
	if err != nil {
		return fmt.Errorf("ask %s for the host port of %s: %w", stock.node.name, stock.name, err)
	}
	seen, err := netip.ParseAddrPort(a.Remote)
	if err != nil || seen.Addr() != client.Addr || a.Pod != stock.name {
		return fmt.Errorf("the host port of %s is answered by %s, which sees %s, want %s: %w", stock.name, a.Pod, a.Remote, client.Addr, err)
	}
	d.detail("%s asks %s:%d (hostPort of stock-0), answered by %s, which sees the client's address %s", client.Addr,
		stock.node.addr, stockHostPort, a.Pod, seen.Addr())
	return nil
}

// An answer is what the pod program says about a request.
type answer struct{ Pod, Node, Remote, Error string }

// fetch makes one request from a network namespace, on a new connection.
func fetch(ctx context.Context, from *netlab.NetNS, to netip.AddrPort) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = from.Do(func() error {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+"/", nil)
	if err != nil {
		return a, err
	}
	response, err := client.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Error != "" {
		return a, fmt.Errorf("%s answers %q: %w", to, body, err)
	}
	return a, nil
}
