module tools

go 1.26.8

require github.com/aws/karpenter-provider-aws v1.14.1
