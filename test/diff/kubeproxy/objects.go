package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	coredefaults "k8s.io/kubernetes/pkg/apis/core/v1"
	discoverydefaults "k8s.io/kubernetes/pkg/apis/discovery/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"
	netutils "k8s.io/utils/net"
)

// An object is one of the kinds that kube-proxy watches, as the API server would hand it out.
type object interface {
	*v1.Service | *discovery.EndpointSlice | *v1.Node | *networking.ServiceCIDR
}

// readManifests reads a file, every file of a directory, or what in has when path is "-".
func readManifests(path string, in io.Reader) ([]metav1.Object, error) {
	if path == "-" {
		return decodeYAML(in, "standard input")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = manifestsIn(path); err != nil {
			return nil, err
		}
	}
	var all []metav1.Object
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		objects, err := decodeYAML(f, name)
		f.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

func manifestsIn(dir string) (files []string, err error) {
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return files, nil
}

func decodeYAML(in io.Reader, name string) (objects []metav1.Object, err error) {
	decoder := yaml.NewYAMLOrJSONDecoder(in, 1<<16)
	for {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		more, err := decode(raw)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		objects = append(objects, more...)
	}
}

func decodeAll(raw []json.RawMessage) (objects []metav1.Object, err error) {
	for _, r := range raw {
		more, err := decode(r)
		if err != nil {
			return nil, err
		}
		objects = append(objects, more...)
	}
	return objects, nil
}

// decode reads one document, which may be a List. Of kinds that kube-proxy does not watch nothing comes.
func decode(raw json.RawMessage) ([]metav1.Object, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var head struct {
		metav1.TypeMeta
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	switch head.Kind {
	case "List":
		return decodeAll(head.Items)
	case "Service":
		svc, err := into(raw, &v1.Service{})
		if err != nil {
			return nil, err
		}
		defaultService(svc)
		return []metav1.Object{svc}, nil
	case "EndpointSlice":
		slice, err := into(raw, &discovery.EndpointSlice{})
		if err != nil {
			return nil, err
		}
		discoverydefaults.SetObjectDefaults_EndpointSlice(slice)
		return []metav1.Object{slice}, nil
	case "Node":
		node, err := into(raw, &v1.Node{})
		return []metav1.Object{node}, err
	case "ServiceCIDR":
		cidr, err := into(raw, &networking.ServiceCIDR{})
		return []metav1.Object{cidr}, err
	}
	return nil, nil
}

func into[T object](raw json.RawMessage, obj T) (T, error) {
	if err := json.Unmarshal(raw, obj); err != nil {
		return nil, err
	}
	if o := metav1.Object(any(obj).(metav1.Object)); o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	}
	return obj, nil
}

// defaultService fills in what the API server does: its defaults, and the two spellings of cluster IPs and families.
func defaultService(svc *v1.Service) {
	coredefaults.SetObjectDefaults_Service(svc)
	spec := &svc.Spec
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if len(spec.IPFamilies) > 0 || spec.ClusterIP == v1.ClusterIPNone {
		return
	}
	for _, ip := range spec.ClusterIPs {
		family := v1.IPv4Protocol
		if netutils.IsIPv6String(ip) {
			family = v1.IPv6Protocol
		}
		spec.IPFamilies = append(spec.IPFamilies, family)
	}
}

// watched reports whether kube-proxy's informers would show the object: its label and field selectors (runServer in
// cmd/kube-proxy/app/server.go).
func watched(obj metav1.Object) bool {
	labels := obj.GetLabels()
	switch o := obj.(type) {
	case *v1.Service:
		_, other := labels[apis.LabelServiceProxyName]
		return !other && o.Spec.ClusterIP != v1.ClusterIPNone
	case *discovery.EndpointSlice:
		_, headless := labels[v1.IsHeadlessService]
		return !headless
	}
	return true
}
