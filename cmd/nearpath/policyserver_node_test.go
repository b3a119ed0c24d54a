//go:build node

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/scheme"

	"github.com/nearpath/nearpath/test/kubeapi"
)

// A policyServer is an API server on the loopback of a node, which may go away and come back at its address.
type policyServer struct {
	api  *kubeapi.Server
	node *policyNode
	addr string
	http *httptest.Server // nil: away
}

// startPolicyServer has the objects of a node come from an API server.
func startPolicyServer(t *testing.T) (*policyServer, *policyNode) {
	t.Helper()
	s := &policyServer{api: kubeapi.New(kubeapi.Kind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy", Resource: "networkpolicies", Namespaced: true}), addr: "127.0.0.1:0"}
	t.Cleanup(s.away)
	n := startPolicyNodeOf(t, func(n *policyNode) string {
		s.node = n
		s.back(t)
		path := filepath.Join(n.node.Dir(), "kubeconfig")
		writeFile(t, path, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}]}`, s.http.URL))
		return fmt.Sprintf("kubeconfig: %s\n", path)
	})
	return s, n
}

// back has the server be there, with the objects that it had.
func (s *policyServer) back(t *testing.T) {
	t.Helper()
	var l net.Listener
	must(t, s.node.node.NetNS().Do(func() (err error) {
		l, err = net.Listen("tcp", s.addr)
		return err
	}))
	s.addr = l.Addr().String()
	s.http = &httptest.Server{Listener: l, Config: &http.Server{Handler: s.api, ReadHeaderTimeout: policyPatience}}
	s.http.Start()
}

// away closes all connections and has new ones refused.
func (s *policyServer) away() {
	if s.http != nil {
		s.http.Listener.Close()
		s.http.CloseClientConnections()
		s.http.Close()
		s.http = nil
	}
}

// put has the API hold the objects of a manifest.
func (s *policyServer) put(t *testing.T, manifest string) {
	t.Helper()
	for text := range strings.SplitSeq(manifest, "---\n") {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(text), nil, nil)
		must(t, err)
		must(t, s.api.Put(object))
	}
}

// A policyTraffic goes on until it is stopped: a pod is asked by one that may, by datagrams of old and new sockets and on a
// connection, and by one that may not, of which it must never hear.
type policyTraffic struct {
	allowed, denied atomic.Int64 // rounds
	intruded        atomic.Int64 // datagrams of who may not that came
	stop            chan struct{}
	wrong           chan error // room for all
	askers, server  sync.WaitGroup
	close           func() // ends all of it, once
}

func (n *policyNode) startTraffic(t *testing.T, allowed, denied, to string) *policyTraffic {
	t.Helper()
	w := &policyTraffic{stop: make(chan struct{}), wrong: make(chan error, 2)}
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.pods[to].addr, echoPort))
	var server *net.UDPConn
	must(t, n.pods[to].ns.Do(func() (err error) {
		server, err = net.ListenUDP("udp", at)
		return err
	}))
	w.server.Go(func() { w.echo(server, n.pods[denied].addr) })
	n.serveEcho(t, to)
	ask := func(from string, rounds *atomic.Int64, do func(old, fresh *net.UDPConn) error) {
		w.askers.Go(func() {
			if err := w.ask(n.pods[from], at, rounds, do); err != nil {
				w.wrong <- fmt.Errorf("%s: %w", from, err)
			}
		})
	}
	var long net.Conn
	must(t, n.pods[allowed].ns.Do(func() (err error) {
		long, err = net.DialTimeout("tcp", at.String(), policyPatience)
		return err
	}))
	ask(allowed, &w.allowed, func(old, fresh *net.UDPConn) error {
		return errors.Join(answered(old), answered(fresh), answered(long))
	})
	ask(denied, &w.denied, func(old, fresh *net.UDPConn) error {
		_, err := old.Write([]byte{1})
		_, freshErr := fresh.Write([]byte{1})
		return errors.Join(err, freshErr)
	})
	w.close = sync.OnceFunc(func() {
		close(w.stop)
		w.askers.Wait()
		server.Close()
		w.server.Wait()
		long.Close()
	})
	t.Cleanup(w.close)
	return w
}

// echo answers, and counts what comes from an address.
func (w *policyTraffic) echo(server *net.UDPConn, denied netip.Addr) {
	datagram := make([]byte, 64)
	for {
		length, from, err := server.ReadFromUDPAddrPort(datagram)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
		case from.Addr().Unmap() == denied:
			w.intruded.Add(1)
		default:
			_, _ = server.WriteToUDPAddrPort(datagram[:length], from)
		}
	}
}

// ask does something with a socket that stays and with a new one, over and over.
func (w *policyTraffic) ask(from *policyTestPod, to *net.UDPAddr, rounds *atomic.Int64, do func(old, fresh *net.UDPConn) error) error {
	dial := func() (c *net.UDPConn, err error) {
		err = from.ns.Do(func() error {
			c, err = net.DialUDP("udp", nil, to)
			return err
		})
		return c, err
	}
	old, err := dial()
	if err != nil {
		return err
	}
	defer old.Close()
	for {
		select {
		case <-w.stop:
			return nil
		case <-time.After(time.Millisecond): // others want the processor, too
		}
		fresh, err := dial()
		if err != nil {
			return err
		}
		if err := errors.Join(do(old, fresh), fresh.Close()); err != nil {
			return err
		}
		rounds.Add(1)
	}
}

// answered sends a byte and waits for one.
func answered(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(policyPatience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// end stops it, which who is asked must hear of, and says if all was as it has to be.
func (w *policyTraffic) end(t *testing.T) {
	t.Helper()
	w.close()
	select {
	case err := <-w.wrong:
		t.Fatal(err)
	default:
	}
	if n := w.intruded.Load(); n > 0 {
		t.Fatalf("%d datagrams came that are not allowed", n)
	}
}

// goesOn waits until more was asked by both, and ends the test where it is not as it has to be.
func (w *policyTraffic) goesOn(t *testing.T, when string) {
	t.Helper()
	const more = 20
	allowed, denied := w.allowed.Load()+more, w.denied.Load()+more
	awaitPolicy(t, "traffic to go on "+when, func() error {
		select {
		case err := <-w.wrong:
			t.Fatalf("%s: %v", when, err)
		default:
		}
		if w.allowed.Load() < allowed || w.denied.Load() < denied {
			return errors.New("it does not")
		}
		return nil
	})
	if n := w.intruded.Load(); n > 0 {
		t.Fatalf("%s: %d datagrams came that are not allowed", when, n)
	}
}

// openTo lets pods of an app reach the database at all ports.
func openTo(app string) string {
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: %s}}}]}]}
`, app)
}

// TestPolicyServerGone: while the API server is away, under an agent that lives and under one that comes, what was enforced stays
// so; what changes afterwards is enforced.
func TestPolicyServerGone(t *testing.T) {
	server, n := startPolicyServer(t)
	server.put(t, policyPods+"---\n"+policyDB)
	server.put(t, openTo("api"))
	n.startAgent(t)
	for _, pod := range []string{"api", "web", "db"} {
		must(t, n.add(t.Context(), t, pod))
	}
	traffic := n.startTraffic(t, "api", "web", "db")
	traffic.goesOn(t, "at first")

	server.away()
	awaitPolicy(t, "the agent to see that the server is away", func() error {
		var v policiesView
		must(t, n.api().Get(t.Context(), policiesPath, &v))
		if v.Failure == "" {
			return errors.New("all can be read")
		}
		return nil
	})
	traffic.goesOn(t, "without an API server")
	n.agent.Kill()
	traffic.goesOn(t, "without an agent")
	seen := len(n.logged(t))
	n.launchAgent(t)
	awaitPolicy(t, "another agent to look for the server", func() error {
		if !strings.Contains(n.logged(t)[seen:], "connection refused") {
			return errors.New("it has not yet")
		}
		return nil
	})
	traffic.goesOn(t, "with an agent that has not seen an API server")

	server.back(t)
	n.awaitAgent(t)
	traffic.goesOn(t, "with the API server back")
	traffic.end(t)
	t.Logf("%d rounds of what is allowed were answered, of %d rounds of what is not nothing came, while the API server came and went",
		traffic.allowed.Load(), traffic.denied.Load())
	server.put(t, openTo("web"))
	n.awaitReach(t, "web", true)
	n.awaitReach(t, "api", false)
	n.agent.Kill()
}

// logged is what agents have written.
func (n *policyNode) logged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(n.log)
	must(t, err)
	return string(text)
}
