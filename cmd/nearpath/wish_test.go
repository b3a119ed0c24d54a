package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	veth, ipvlan, exclusive := cni.Veth, cni.IPVlan, cni.Exclusive
	c := networkConfig{Sandboxed: sandboxedByDefault, RuntimeClasses: map[string]cni.Datapath{"fast": ipvlan, "alone": exclusive, "gvisor": exclusive, "plain": veth}}
	for _, tt := range []struct {
		node              cni.Datapath
		annotation, class string
		barred            string
		want              cni.Datapath
		refused           string // part of what the pod is told
	}{
		{veth, "", "", "", veth, ""},
		{ipvlan, "", "", "", ipvlan, ""},
		{exclusive, "", "", "", exclusive, ""},
		// The annotation goes before the RuntimeClass, and that before the node.
		{exclusive, "veth", "", "", veth, ""},
		{veth, "ipvlan", "", "", ipvlan, ""},
		{veth, "", "fast", "", ipvlan, ""},
		{ipvlan, "", "alone", "", exclusive, ""},
		{ipvlan, "", "plain", "", veth, ""},
		{veth, "veth", "fast", "", veth, ""},
		{veth, "exclusive", "fast", "", exclusive, ""},
		{ipvlan, "", "unknown", "", ipvlan, ""},
		// Whoever must not have ipvlan has veth, and is told if it asked for it itself.
		{ipvlan, "", "", mayChangeNetwork, veth, ""},
		{veth, "", "fast", mayChangeNetwork, veth, ""},
		{veth, "ipvlan", "", mayChangeNetwork, veth, "NET_ADMIN"},
		{ipvlan, "", "kata-qemu", "", veth, ""},
		{ipvlan, "", "runsc", "", veth, ""},
		{veth, "ipvlan", "kata", "", veth, `RuntimeClass "kata"`},
		// The others are for everybody.
		{veth, "exclusive", "kata", mayChangeNetwork, exclusive, ""},
		{ipvlan, "", "gvisor", mayChangeNetwork, exclusive, ""},
	} {
		c.Datapath = tt.node
		p := podFacts{runtimeClass: tt.class, barred: tt.barred}
		if tt.annotation != "" {
			p.annotations = map[string]string{annotationDatapath: tt.annotation}
		}
		got, err := choose(c, p)
		if err != nil || got.Datapath != tt.want || (got.refused != "") != (tt.refused != "") || !strings.Contains(got.refused, tt.refused) {
			t.Errorf("%+v: %+v, %v", tt, got, err)
		}
	}
	for _, wrong := range []string{"", "IPVLAN", "macvlan"} {
		if got, err := choose(c, podFacts{annotations: map[string]string{annotationDatapath: wrong}}); err == nil || !strings.Contains(err.Error(), annotationDatapath) {
			t.Errorf("%q: %+v, %v", wrong, got, err)
		}
	}
}

type wishTest struct {
	*wisher
	events []string
	kernel error
}

func newWishTest(c networkConfig, pods ...*cluster.Pod) *wishTest {
	w := &wishTest{}
	store := cluster.NewStore()
	w.wisher = &wisher{
		config: func() networkConfig { return c }, pods: podFinder{store: store},
		ipvlan: func() error { return w.kernel },
		warn: func(about cluster.Object, reason, message string) {
			w.events = append(w.events, fmt.Sprintf("%s %s: %s: %s", about.Kind, about.Name, reason, message))
		},
	}
	store.Update(func(e *cluster.Edit) {
		for _, p := range pods {
			e.PutPod(p)
		}
		e.MarkSynced()
	})
	return w
}

func attachmentOf(name, uid string) cni.Attachment {
	return cni.Attachment{Pod: cni.PodRef{Namespace: "shop", Name: name, UID: uid}}
}

func aPod(name, uid string, annotations map[string]string) *cluster.Pod {
	return &cluster.Pod{Name: cluster.Name{Namespace: "shop", Name: name}, UID: uid, Annotations: annotations}
}

// TestWishWaitsForThePod: the runtime may be faster than the API's watch, and the object of an earlier pod of the name is
// not the pod's.
func TestWishWaitsForThePod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWishTest(networkConfig{Datapath: cni.IPVlan}, aPod("web-0", "old", nil))
		go func() {
			time.Sleep(3 * time.Second)
			w.pods.store.Update(func(e *cluster.Edit) { e.PutPod(aPod("other", "x", nil)) })
			time.Sleep(time.Second)
			w.pods.store.Update(func(e *cluster.Edit) {
				e.PutPod(aPod("web-0", "new", map[string]string{annotationDatapath: "veth", "kubernetes.io/egress-bandwidth": "10M"}))
			})
		}()
		began := time.Now()
		wish, err := w.Wish(t.Context(), attachmentOf("web-0", "new"), nil)
		if err != nil || wish != (cni.Wish{Datapath: cni.Veth, Limits: cni.Limits{Egress: 10_000_000}}) || time.Since(began) != 4*time.Second {
			t.Errorf("%+v, %v after %s", wish, err, time.Since(began))
		}
		_, err = w.Wish(t.Context(), attachmentOf("web-0", "newer"), nil)
		var coded *agentapi.CNIError
		if !errors.As(err, &coded) || coded.Code != tryAgainLater || !strings.Contains(coded.Details, "newer") || time.Since(began) != 4*time.Second+podPatience {
			t.Errorf("a pod that does not appear: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Wish(ctx, attachmentOf("web-0", "newer"), nil); !errors.As(err, &coded) {
			t.Errorf("an ADD that was given up: %v", err)
		}
	})
}

// TestWishWithoutAnObject: what has no object is not waited for.
func TestWishWithoutAnObject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		passed := map[string]string{annotationDatapath: "exclusive"}
		mirror := aPod("proxy", "mirror", map[string]string{annotationMirror: "hash"})
		for name, tt := range map[string]struct {
			manifests   bool
			pod         cni.Attachment
			annotations map[string]string
			want        cni.Datapath
		}{
			"manifests":                {true, attachmentOf("web-0", "u"), nil, cni.IPVlan},
			"manifests, told":          {true, attachmentOf("web-0", "u"), passed, cni.Exclusive},
			"no pod":                   {false, cni.Attachment{}, nil, cni.IPVlan},
			"static":                   {false, attachmentOf("dns", "u"), map[string]string{annotationSource: "file"}, cni.Veth},
			"static with an API pod":   {false, attachmentOf("proxy", "hash"), map[string]string{annotationSource: "file"}, cni.IPVlan},
			"no UID, from the runtime": {false, attachmentOf("proxy", ""), nil, cni.IPVlan},
		} {
			w := newWishTest(networkConfig{Datapath: cni.IPVlan}, mirror)
			w.pods.manifests = tt.manifests
			if wish, err := w.Wish(t.Context(), tt.pod, tt.annotations); err != nil || wish.Datapath != tt.want {
				t.Errorf("%s: %+v, %v", name, wish, err)
			}
		}
		if time.Since(began) > 0 {
			t.Errorf("waited %s", time.Since(began))
		}
	})
}

// TestWishTells: events name what a pod does not get, once, and an annotation that cannot be meant fails the ADD.
func TestWishTells(t *testing.T) {
	t.Parallel()
	asking := map[string]string{
		annotationDatapath: "ipvlan", "kubernetes.io/ingress-bandwidth": "fast", annotationKeep: "true",
		"k8s.aliyun.com/pod-ips": "10.0.0.1", "k8s.aliyun.com/pod-networks": "x", "k8s.aliyun.com/network-priority": "guaranteed",
	}
	admin, plain, wrong := aPod("admin", "1", asking), aPod("plain", "2", nil), aPod("wrong", "3", map[string]string{annotationDatapath: "fast"})
	admin.NetAdmin = true
	w := newWishTest(networkConfig{Datapath: cni.IPVlan}, admin, plain, wrong)
	w.kernel = fmt.Errorf("%w: operation not supported", hostnet.ErrNoIPVlan)
	for range 2 {
		for _, p := range []string{"admin 1", "plain 2"} {
			name, uid, _ := strings.Cut(p, " ")
			if wish, err := w.Wish(t.Context(), attachmentOf(name, uid), nil); err != nil || wish != (cni.Wish{Datapath: cni.Veth}) {
				t.Errorf("%s: %+v, %v", p, wish, err)
			}
		}
	}
	var coded *agentapi.CNIError
	if _, err := w.Wish(t.Context(), attachmentOf("wrong", "3"), nil); !errors.As(err, &coded) || coded.Code != 7 {
		t.Errorf("a datapath that does not exist: %v", err)
	}
	count := func(parts ...string) (n int) {
		for _, e := range w.events {
			if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(e, p) }) {
				n++
			}
		}
		return n
	}
	for _, tt := range []struct {
		want  int
		parts []string
	}{
		{1, []string{"Pod shop/admin: DatapathRefused", "NET_ADMIN"}},
		{1, []string{"Pod shop/admin: BandwidthIgnored", "ingress-bandwidth", "fast"}},
		{1, []string{"Pod shop/admin: AnnotationsIgnored: k8s.aliyun.com/network-priority, k8s.aliyun.com/pod-networks: "}},
		{1, []string{"NoIPVlan", "network.datapath"}},
		{0, []string{"plain"}},
		{4, nil},
	} {
		if got := count(tt.parts...); got != tt.want {
			t.Errorf("%d events with %q, want %d of %q", got, tt.parts, tt.want, w.events)
		}
	}
}

// TestTellByName: pods without a UID are told by name, one pod of different things, and another pod of the name, too.
func TestTellByName(t *testing.T) {
	t.Parallel()
	w := newWishTest(networkConfig{})
	for range 2 {
		for _, ref := range []cni.PodRef{{Name: "a"}, {Name: "b"}, {Name: "c", UID: "1"}, {Name: "c", UID: "2"}} {
			w.tell(objectOf(ref), "First", "x")
			w.tell(objectOf(ref), "Second", "x")
		}
	}
	if len(w.events) != 8 {
		t.Errorf("%d events, want 8: %q", len(w.events), w.events)
	}
}

// TestNotAMirror: whoever names a node as a pod's controller does not make it the mirror of another pod.
func TestNotAMirror(t *testing.T) {
	t.Parallel()
	owned := aPod("web", "old", nil)
	owned.Owner.Kind = "Node"
	w := newWishTest(networkConfig{}, owned)
	if got := w.pods.known(attachmentOf("web", "new").Pod); got != nil {
		t.Errorf("found %+v", got)
	}
}
