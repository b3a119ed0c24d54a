package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/bench/site"
	"github.com/nearpath/nearpath/test/netlab"
)

// A kubeProxy is the real kube-proxy's rules on a site: test/diff/kubeproxy holds its proxiers and gives them objects as
// informers would.
type kubeProxy struct {
	requests  *json.Encoder
	responses *json.Decoder
	flipped   int
}

// kubeProxyProgram is its name among the peers.
const kubeProxyProgram = "kubeproxy"

func newKubeProxy(ctx context.Context, lab *netlab.Lab, env measure.Env, mode string) (*contender, error) {
	s, err := newSite(ctx, lab, mode, env)
	if err != nil {
		return nil, err
	}
	c := &contender{name: "kube-proxy, " + mode, role: measure.Peer}
	if c.client, err = s.ConnectClient(ctx, roleClient, site.Bare); err != nil {
		return nil, err
	}
	cmd := s.Node.Command(context.WithoutCancel(ctx), filepath.Join(env.Peers, kubeProxyProgram),
		"-serve", "-mode", mode, "-node", "here", "-node-ips", site.ByServer.String(), "-pod-cidrs", "10.90.0.0/24")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.node = &kubeProxy{requests: json.NewEncoder(in), responses: json.NewDecoder(out)}
	_, err = lab.Start(cmd)
	return c, err
}

// apply changes what there is, or replaces all of it, and tells how many milliseconds kube-proxy worked on it: from the
// first object that it was told of to the last rule.
func (k *kubeProxy) apply(ctx context.Context, o Objects, replace bool) (float64, error) {
	documents, err := o.documents()
	if err != nil {
		return 0, err
	}
	request := struct {
		Replace bool              `json:"replace"`
		Apply   []json.RawMessage `json:"apply"`
	}{replace, documents}
	if err := k.requests.Encode(request); err != nil {
		return 0, fmt.Errorf("tell kube-proxy: %w", err)
	}
	var answer struct {
		Seconds float64 `json:"seconds"`
		Error   string  `json:"error"`
	}
	done := make(chan error, 1)
	go func() { done <- k.responses.Decode(&answer) }()
	select {
	case err := <-done:
		if errors.Is(err, io.EOF) {
			err = errors.New("it has ended")
		}
		if err != nil {
			return 0, fmt.Errorf("read kube-proxy's answer: %w", err)
		}
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if answer.Error != "" {
		return 0, fmt.Errorf("kube-proxy: %s", answer.Error)
	}
	return 1000 * answer.Seconds, nil
}

func (k *kubeProxy) load(ctx context.Context, n size) error {
	_, err := k.apply(ctx, clusterOf(n), true)
	return err
}

func (k *kubeProxy) sync(ctx context.Context, n size) (float64, error) {
	if _, err := k.apply(ctx, Objects{}, true); err != nil {
		return 0, err
	}
	return k.apply(ctx, clusterOf(n), true)
}

func (k *kubeProxy) flip(ctx context.Context, times int) (took []float64, err error) {
	for range times {
		k.flipped = 1 - k.flipped
		one := Objects{}
		one.add(flipping, vip(-1), epoch, []netip.Addr{served()[k.flipped]})
		ms, err := k.apply(ctx, one, false)
		if err != nil {
			return nil, err
		}
		took = append(took, ms)
	}
	return took, nil
}
