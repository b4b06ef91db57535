#!/usr/bin/env bash
# Builds the programs of a Kubernetes control plane, Karpenter and kwok into tools/bin, for the tests in tests/cluster, and
# fetches the definition of EC2NodeClass.
# One go.mod for each, because their dependencies would lift each other. Needs Go; its build cache makes later runs fast.
set -euo pipefail
cd "$(dirname "$0")"
# Where Go's own instructions put it, which not every PATH names.
PATH=$PATH:/usr/local/go/bin
command -v go > /dev/null || { echo "tools/build.sh: Go is not installed; want Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
mkdir -p bin/crds/aws
at() { (cd "$1" && go list -m -f "$2" "$3"); }
build() { (cd "$1" && go build -trimpath -ldflags="-s -w ${4:-}" -o "../bin/$2" "$3"); }

build etcd etcd go.etcd.io/etcd/server/v3
build kwok kwok sigs.k8s.io/kwok/cmd/kwok
build karpenter karpenter sigs.k8s.io/karpenter/kwok
# Without its version linked in, clients see v0.0.0.
version=$(at kubernetes '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.} && minor=${minor%%.*}
about=k8s.io/component-base/version
for program in kube-apiserver kube-scheduler kube-controller-manager; do
  build kubernetes $program k8s.io/kubernetes/cmd/$program \
    "-X $about.gitVersion=$version -X $about.gitMajor=1 -X $about.gitMinor=$minor"
done

karpenter=$(at karpenter '{{.Dir}}' sigs.k8s.io/karpenter)
cp -f "$karpenter"/pkg/apis/crds/*.yaml "$karpenter"/kwok/apis/crds/*.yaml bin/crds/
# Of the AWS provider only the definition is used: its controller needs an account.
(cd aws && go mod download)
cp -f "$(at aws '{{.Dir}}' github.com/aws/karpenter-provider-aws)"/pkg/apis/crds/karpenter.k8s.aws_ec2nodeclasses.yaml bin/crds/aws/
# kwok does nothing without stages: what becomes of its nodes and pods.
kwok=$(at kwok '{{.Dir}}' sigs.k8s.io/kwok)
for stage in "$kwok"/kustomize/stage/{node,pod}/fast/*.yaml; do
  case $stage in */kustomization.yaml) ;; *) echo --- && cat "$stage" ;; esac
done > bin/stages.yaml
chmod -R u+w bin/crds
