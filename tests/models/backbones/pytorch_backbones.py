"""Plain PyTorch versions of the backbones, with torchvision's parameter names."""

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, channels, planes, stride, caffe, groups, group_width):
        super().__init__()
        width = planes * group_width // 64 * groups
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = None
        if stride > 1 or channels != 4 * planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * planes, 1, stride, bias=False),
                nn.BatchNorm2d(4 * planes),
            )

    def forward(self, x):
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, *blocks, caffe=False, bottom_up=False, groups=1, group_width=64):
        super().__init__()
        self.normalize = bgr if bottom_up else imagenet
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 0 if caffe else 1, ceil_mode=caffe)
        channels = 64
        for i, count in enumerate(blocks):
            planes, stage = 64 * 2**i, []
            for j in range(count):
                stride = 2 if i and not j else 1
                stage.append(
                    Bottleneck(channels, planes, stride, caffe, groups, group_width)
                )
                channels = 4 * planes
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, 1000)

    def features(self, image):
        x = self.conv1(self.normalize(image))
        x = self.maxpool(torch.relu(self.bn1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def pooled(self, image):
        return self.features(image).mean((2, 3))


def vgg_convolutions():
    layers, channels = [], 3
    widths = [64] * 2 + [0] + [128] * 2 + [0] + [256] * 4 + [0]
    for width in widths + [512] * 4 + [0] + [512] * 4 + [0]:
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG19(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = vgg_convolutions()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 1000),
        )

    def features(self, image):
        return self.convolutions(imagenet(image))

    def pooled(self, image):
        x = nn.functional.adaptive_avg_pool2d(self.features(image), 7)
        return self.classifier[:-1](x.flatten(1))

    def state_dict(self):
        return {
            name.replace("convolutions", "features"): tensor
            for name, tensor in super().state_dict().items()
        }


class EfficientNetLite(nn.Module):
    """Wraps the package's network in this file's interface."""

    def __init__(self, name, image_size):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        # The package computes its padding for this size.
        self.network = EfficientNet.from_name(name, image_size=image_size)

    def features(self, image):
        return self.network.extract_features((image - 127) / 128)

    def pooled(self, image):
        return self.features(image).mean((2, 3))

    def state_dict(self):
        return self.network.state_dict()


def imagenet(image):
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (image / 255 - mean) / deviation


def bgr(image):
    return image.flip(1) - torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]


def create(name, image_size):
    """Returns the PyTorch version of a backbone with random parameters."""
    if name.startswith("efficientnet_lite"):
        network = EfficientNetLite(name.replace("_", "-"), image_size)
    else:
        network = {
            "resnet50": lambda: ResNet(3, 4, 6, 3),
            "resnet101": lambda: ResNet(3, 4, 23, 3),
            "resnet152": lambda: ResNet(3, 8, 36, 3),
            "resnext101_32x8d": lambda: ResNet(3, 4, 23, 3, groups=32, group_width=8),
            "bottom_up_resnet101": lambda: ResNet(
                3, 4, 23, 3, caffe=True, bottom_up=True
            ),
            "caffe_resnet50": lambda: ResNet(3, 4, 6, 3, caffe=True),
            "caffe_resnet101": lambda: ResNet(3, 4, 23, 3, caffe=True),
            "caffe_resnet152": lambda: ResNet(3, 8, 36, 3, caffe=True),
            "vgg19": VGG19,
        }[name]()
    randomize(network)
    return network.eval()


def randomize(network, seed=0):
    """Draws parameters and statistics, small enough for sums over residual blocks."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
            nn.init.normal_(module.running_mean, 0, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
        if isinstance(module, nn.Conv2d):
            deviation = (2 / module.weight[0].numel()) ** 0.5
            nn.init.normal_(module.weight, 0, deviation, generator=generator)


def run(network, image, *, pooled):
    """Maps uint8 `[batch, height, width, 3]` to the expected output of our backbone."""
    with torch.inference_mode():
        if pooled:
            return network.pooled(_pixels(image)).numpy()
        return _regions(network.features(_pixels(image)))


def run_vgg_convolutions(network, image):
    """Returns the regions of VGG-19, given only its convolutions."""
    with torch.inference_mode():
        return _regions(network(imagenet(_pixels(image))))


def _pixels(image):
    return torch.from_numpy(image.transpose(0, 3, 1, 2)).float()


def _regions(features):
    return features.flatten(2).transpose(1, 2).numpy()
