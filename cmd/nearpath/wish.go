package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	cnitypes "github.com/containernetworking/cni/pkg/types"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/hostnet"
)

// annotationDatapath asks for a datapath, over all else.
const annotationDatapath = "nearpath.io/datapath"

// podFacts are what a pod's wish is made of.
type podFacts struct {
	object       cluster.Object
	annotations  map[string]string
	labels       map[string]string
	runtimeClass string
	containers   []string
	// barred says why the pod must not have ipvlan, empty if it may.
	barred string
}

// A wisher says what is asked of each pod's network.
type wisher struct {
	config func() networkConfig
	pods   podFinder
	ipvlan func() error // nil: the kernel has it
	warn   func(about cluster.Object, reason, message string)

	mu       sync.Mutex // guards what follows
	noIPVlan bool       // the node was told of
	told     []toldPod  // who was told of what, the newest last
}

// Wish is what the pod's annotations, its RuntimeClass and the configuration ask for. See choose.
func (w *wisher) Wish(ctx context.Context, a cni.Attachment, annotations map[string]string) (cni.Wish, error) {
	facts, err := w.pods.find(ctx, a.Pod, annotations)
	if err != nil {
		return cni.Wish{}, &agentapi.CNIError{Code: tryAgainLater, Msg: "learn what the pod asks for", Details: err.Error()}
	}
	choice, err := choose(w.config(), facts)
	if err != nil {
		return cni.Wish{}, &agentapi.CNIError{Code: cnitypes.ErrInvalidNetworkConfig, Msg: "read the pod's annotations", Details: err.Error()}
	}
	if choice.Datapath == cni.IPVlan && !w.hasIPVlan() {
		choice = choice.instead("the node's kernel has no ipvlan")
	}
	if choice.refused != "" {
		w.tell(facts.object, "DatapathRefused", choice.refused)
	}
	if choice.ignored != "" {
		w.tell(facts.object, "ServicePathIgnored", choice.ignored)
	}
	w.tellIgnored(facts)
	limits, err := cni.LimitsOf(facts.annotations, cni.Limits{})
	if err != nil {
		w.tell(facts.object, "BandwidthIgnored", err.Error())
	}
	return cni.Wish{Datapath: choice.Datapath, ByPackets: choice.byPackets, Limits: limits}, nil
}

// A toldPod is a pod that was told of something, by its UID or else its name.
type toldPod struct {
	pod     cluster.Object
	message string
}

// maxTold bounds how many are remembered; the API makes one event of many that are alike anyway.
const maxTold = 1024

// tell makes an event on a pod unless there was the same one before: an ADD may be repeated for a long time.
func (w *wisher) tell(pod cluster.Object, reason, message string) {
	key := toldPod{pod, reason + message}
	if key.pod.UID != "" {
		key.pod.Name = cluster.Name{}
	}
	w.mu.Lock()
	known := slices.Contains(w.told, key)
	if !known {
		w.told = append(w.told, key)
		w.told = w.told[max(0, len(w.told)-maxTold):]
	}
	w.mu.Unlock()
	if !known {
		w.warn(pod, reason, message)
	}
}

// A choice is a datapath and a path to Services; explicit says that the pod asks for it by its annotation, and refused what to tell it if it
// does not get that.
type choice struct {
	cni.Datapath
	explicit bool
	refused  string
	pathChoice
}

// instead is veth, for a reason: it works for every pod.
func (c choice) instead(reason string) choice {
	out := choice{Datapath: cni.Veth, explicit: c.explicit, pathChoice: c.pathChoice}
	if c.explicit {
		out.refused = fmt.Sprintf("%s is %q: %s, so the pod has veth", annotationDatapath, c.Datapath, reason)
	}
	return out
}

// choose takes the annotation before what the configuration says of the pod's RuntimeClass, and that before the node's
// default. Who must not have ipvlan has veth instead. So have pods whose Services are served by packets: what a pod on the
// same ENI answers stays within the ipvlan bridge, where nobody translates it back.
func choose(c networkConfig, p podFacts) (choice, error) {
	chosen := choice{Datapath: c.Datapath, pathChoice: choosePath(c, p)}
	if d, ok := c.RuntimeClasses[p.runtimeClass]; ok && p.runtimeClass != "" {
		chosen.Datapath = d
	}
	if text, ok := p.annotations[annotationDatapath]; ok {
		chosen.Datapath, chosen.explicit = cni.Datapath(text), true
		if !slices.Contains(datapaths, chosen.Datapath) {
			return choice{}, fmt.Errorf("%s is %q: use veth, ipvlan or exclusive, or remove it", annotationDatapath, text)
		}
	}
	if chosen.Datapath != cni.IPVlan {
		return chosen, nil
	}
	if p.runtimeClass != "" && c.sandboxed(p.runtimeClass) {
		return chosen.instead(fmt.Sprintf("a sandbox of RuntimeClass %q cannot take over an ipvlan link", p.runtimeClass)), nil
	}
	if p.barred != "" {
		return chosen.instead(p.barred), nil
	}
	if chosen.byPackets {
		return chosen.instead("the pod's Services are served by packets, as " + chosen.reason), nil
	}
	return chosen, nil
}

// hasIPVlan asks each time, for a module may be loaded later, and tells the node once.
func (w *wisher) hasIPVlan() bool {
	err := w.ipvlan()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !w.noIPVlan {
		w.noIPVlan = true
		message := "pods that are to have ipvlan have veth: " + err.Error()
		if errors.Is(err, hostnet.ErrNoIPVlan) {
			message += "; use a kernel with the module ipvlan, or set network.datapath to veth"
		}
		w.warn(cluster.Object{}, "NoIPVlan", message)
	}
	return err == nil
}

// mayChangeNetwork is why pods with such rights must not have ipvlan: links of one ENI are told apart by nothing but the
// addresses that their pods use.
const mayChangeNetwork = "a container is privileged or has NET_ADMIN, and could use other pods' addresses"

const (
	// podPatience bounds how long an ADD waits for the pod to be known: the runtime hears of a pod by the kubelet, which
	// hears of it at the same time as we do.
	podPatience = 5 * time.Second
	// annotationSource is the kubelet's, among those that it gives the runtime: where it has a pod from.
	annotationSource = "kubernetes.io/config.source"
	// annotationMirror is the kubelet's on the object that it makes of a static pod.
	annotationMirror = "kubernetes.io/config.mirror"
)

// A podFinder knows what is known of a pod.
type podFinder struct {
	store *cluster.Store
	// manifests says that objects come from a directory, which need not have the pods.
	manifests bool
}

// find waits for the pod's object to appear. Without one there is no telling whether the pod may have ipvlan, so the ADD
// fails and is repeated. Pods that have no object, or only a mirror of themselves later, are not waited for: static ones,
// and with a directory of manifests any.
func (f podFinder) find(ctx context.Context, ref cni.PodRef, annotations map[string]string) (podFacts, error) {
	if pod := f.known(ref); pod != nil {
		return factsOf(pod), nil
	}
	facts := podFacts{object: objectOf(ref), annotations: annotations}
	source := annotations[annotationSource]
	static := source != "" && source != "api"
	switch {
	case ref.Name == "" || f.manifests:
		return facts, nil
	case static:
		facts.barred = "nothing is known of the rights of a static pod"
		return facts, nil
	}
	pod, err := f.await(ctx, ref)
	if err != nil {
		return podFacts{}, err
	}
	return factsOf(pod), nil
}

func (f podFinder) await(ctx context.Context, ref cni.PodRef) (*cluster.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	changes := f.store.Subscribe(cluster.Pods)
	defer changes.Close()
	for {
		if pod := f.known(ref); pod != nil {
			return pod, nil
		}
		if _, err := changes.Next(ctx); err != nil {
			return nil, fmt.Errorf("wait for the pod %s/%s with UID %q to be seen: %w", ref.Namespace, ref.Name, ref.UID, err)
		}
	}
}

// known finds the object of this very pod, and not of an earlier one of its name. A mirror of a static pod has another
// UID, and says so.
func (f podFinder) known(ref cni.PodRef) *cluster.Pod {
	pod := f.store.Snapshot().Pod(cluster.Name{Namespace: ref.Namespace, Name: ref.Name})
	if pod == nil || ref.Name == "" {
		return nil
	}
	if _, mirror := pod.Annotations[annotationMirror]; pod.UID != "" && ref.UID != "" && pod.UID != ref.UID && !mirror {
		return nil
	}
	return pod
}

func factsOf(pod *cluster.Pod) podFacts {
	facts := podFacts{object: pod.Object(), annotations: pod.Annotations, labels: pod.Labels, runtimeClass: pod.RuntimeClass, containers: pod.Containers}
	if pod.NetAdmin {
		facts.barred = mayChangeNetwork
	}
	return facts
}
