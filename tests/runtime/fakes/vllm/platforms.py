"""FAKE: vllm/platforms."""


class Platform:
    cpu = False

    def is_cpu(self) -> bool:
        return self.cpu


current_platform = Platform()
